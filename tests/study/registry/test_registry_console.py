"""What the user sees of a registry, in 80 columns."""

from made_models import printed

from study.registry.console import listing
from study.registry.versions import Version

CONFIGURATION = (
    "global_ratio 0, hsas 2d, hsas_probability 0.387, optimizer adamw, adamw_learning_rate 0.00169"
)


def version(number, gate, *aliases, **tags):
    figures = {"report_image_auroc": "0.662 [0.449, 0.852]", "latency_ms": "16.83"}
    return Version(
        name="m",
        number=number,
        aliases=aliases,
        tags={"gate": gate, **figures, **tags},
        description="",
        run="",
        created=0.0,
    )


def test_a_list_of_versions_has_eighty_columns_and_whole_words():
    origin = {"study": "a-study-with-a-long-name-confirm", "configuration_name": CONFIGURATION}
    models = {
        "ffcad-mvtec-screw": [
            version(1, "discarded", **origin),
            version(2, "refused", "challenger", **origin),
            version(12, "forced", "champion", "production", "the-line-in-the-south", **origin),
            version(13, ""),
        ],
        "bolts": [version(1, "first", "champion", study="parts", configuration_name="ratio 0.5")],
    }
    lines = printed(listing(models, "")).splitlines()
    assert max(map(len, lines)) <= 80
    words = " ".join(" ".join(lines).split())
    assert words.count(f"{origin['study']}, {CONFIGURATION}") == 3
    assert [line.split()[0] for line in lines if "0.662" in line] == ["13", "12", "2", "1", "1"]
    assert "  version 1: parts, ratio 0.5" in [line.rstrip() for line in lines]
    assert not any("version 13:" in line for line in lines)
