"""One short file per question; `study/space_files.py` says what a file holds."""
