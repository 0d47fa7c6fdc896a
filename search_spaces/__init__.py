"""One short file per question; `study/spaces.py` says what a file holds."""
