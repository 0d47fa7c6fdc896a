"""A study so small that one of its fits takes about a second."""

import dataclasses

import pytest

from study.arguments import parse
from study.plan import cases_of, prepare
from study.trainable import Job
from study.tuning import count_rungs

TINY = (
    "--categories dial --set image_size=32 --set autoencoder_channels=16 --set head_channels=8 "
    "--set batch_size=2 --set autoencoder_iterations=2 --set head_iterations=4 "
    "--set evaluate_every=2 --set ffc_layers=1 --set global_ratio=0"
)


@pytest.fixture(scope="session", autouse=True)
def image_cache(tmp_path_factory):
    """Decoded images outside of the user's own cache, for child processes too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FFCAD_CACHE", str(tmp_path_factory.mktemp("decoded")))
        yield


@pytest.fixture(scope="session")
def make_job():
    """Makes the job of a tiny study from the folder of its storage and flags."""

    def make(storage, flags="") -> Job:
        config, space = parse([*TINY.split(), "--storage", str(storage), *flags.split()])
        config, inputs, _ = prepare(config, space)
        return Job(
            study=config,
            inputs=inputs,
            last_stage_change=max(space.values_of("autoencoder_iterations")),
            rungs=count_rungs(config, space),
            environment={"git_sha": "abc", "git_dirty": False},
        )

    return make


@pytest.fixture(scope="session")
def first_fit():
    """A job's configuration with the searched knobs at their defaults or as given, and its case."""

    def make(job, **knobs):
        configuration = dataclasses.replace(job.study.search_space().corners([])[0], **knobs)
        return configuration, cases_of(job.study, job.inputs, configuration)[0]

    return make
