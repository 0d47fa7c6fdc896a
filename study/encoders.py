"""The frozen encoders that studies make: on the storage, each once, named by what it is made of.

    <storage>/encoders/<key>/card.json           what it is made of, how far it is, how good it is
    <storage>/encoders/<key>/<key>.safetensors   the weights, when it is finished
    <storage>/encoders/<key>/checkpoint.pt       at every evaluation, with the one before it; the
                                                 finished one mends the weights' file
    <storage>/encoders/<key>/lease-000001.json   while a worker makes it (`study.leases`)
    <storage>/teachers/<digest>.safetensors      the ResNet-18 that they are made from, so that
                                                 workers need neither its file nor a download

Like fits, they are shared by all studies on a storage.
"""

import contextlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ffcad.pretrain_config import EncoderArchitecture, PretrainConfig, encoder_key
from study.lease_holders import describe
from study.leases import Waiter
from study.ledger import FINISHED, Records

CARD = "card.json"
LEVELS = (1, 2, 3)
# How the error of a fit begins that failed for its encoder; plans look for it.
NOT_MADE = "its encoder could not be made"


class EncoderError(RuntimeError):
    """An encoder that could not be made; a fit that needs it fails for that."""


@dataclass(frozen=True)
class EncoderNeed:
    """An encoder by what it is made of, known before it is made.

    Attributes:
        recipe: of its making.
        architecture: its own.
        teacher: digest of the teacher's weights; None where there is no teacher.
        corpus: digest of the images.
    """

    recipe: PretrainConfig
    architecture: EncoderArchitecture
    teacher: str | None
    corpus: str

    @cached_property
    def key(self) -> str:
        """Sixteen hexadecimal digits, the same on every machine."""
        return encoder_key(self.recipe, self.architecture, self.teacher, self.corpus)

    def __str__(self) -> str:
        return f"{self.recipe.method}, {self.architecture}"


@dataclass(frozen=True, kw_only=True)
class EncoderRecord:
    """An encoder's card.

    Attributes:
        key: `ffcad.pretrain_config.encoder_key`.
        status: begun, finished or failed.
        study: the study that made it.
        architecture: ratio, layers, lfu.
        recipe: every knob of its making.
        teacher, corpus: their digests; None for no teacher.
        weights: digest of the weights, once it is finished.
        figures: of the finished encoder, on held-out images; see `ffcad.agreement`.
        history: all evaluations: iteration, 'training_loss', figures, 'time' (epoch, seconds).
        images: how many were trained on and held out.
        iteration, iterations: done, and at most to be done.
        seconds: spent making it, all sittings together.
        peak_memory_mb: of the GPU where there is one, else of the process; 10**6 bytes.
        sittings: each time a worker took it up: 'began' (epoch), 'iteration', 'host', 'study'.
        notes: what the user should know, a line each.
        environment: git revision, versions, machine.
        error: why it failed, one line.
        began, ended: epoch, seconds.
    """

    key: str
    status: str
    study: str
    architecture: dict[str, Any]
    recipe: dict[str, Any]
    teacher: str | None
    corpus: str
    weights: str | None = None
    figures: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    images: dict[str, int] = field(default_factory=dict)
    iteration: int = 0
    iterations: int = 0
    seconds: float = 0.0
    peak_memory_mb: float = 0.0
    sittings: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    began: float = 0.0
    ended: float | None = None

    @property
    def need(self) -> EncoderNeed:
        """What it is made of."""
        recipe = PretrainConfig.from_dict(self.recipe)
        architecture = EncoderArchitecture(**self.architecture)
        return EncoderNeed(recipe, architecture, self.teacher, self.corpus)

    def agreement(self) -> str:
        """How good it is, in a few words; empty before it is finished."""
        if "top1" in self.figures:
            return f"top-1 {self.figures['top1']:.3f}, top-5 {self.figures['top5']:.3f}"
        if not self.figures:
            return ""
        return f"cosine {self.levels('cosine')}, CKA {self.levels('cka')}"

    def levels(self, figure: str) -> str:
        """A figure of the three levels."""
        return " ".join(f"{self.figures[f'level{k}_{figure}']:.3f}" for k in LEVELS)


class EncoderStore(Records[EncoderRecord]):
    """The encoders on a storage."""

    root, file, kind = "encoders", CARD, EncoderRecord

    def weights(self, key: str) -> str:
        """The name of an encoder's weights on the storage."""
        return f"{self.folder(key)}/{key}.safetensors"

    def teacher(self, digest: str) -> str:
        """The name of a teacher's weights on the storage."""
        return f"teachers/{digest[:16]}.safetensors"

    def remove(self, key: str) -> None:
        """Removes an encoder with its files.

        Raises:
            EncoderError: if somebody makes it now.
        """
        waiter = Waiter(self.storage, self.folder(key), {"study": "encoders remove"})
        lease = waiter.attempt()
        if lease is None:
            raise EncoderError(
                f"encoder {key} is being made by {describe(waiter.holder)}, for study "
                f"{waiter.holder.get('study', '?')}; end that first"
            )
        try:
            # The card last: what is half removed is still seen.
            names = [n for n in self.storage.files(self.folder(key)) if "/lease-" not in n]
            for name in sorted(names, key=lambda name: name.endswith(CARD)):
                self.storage.delete(name)
        finally:
            lease.forget()
        if self.storage.local:
            with contextlib.suppress(
                OSError
            ):  # Somebody began it anew, or something else is there.
                (self.storage.local / self.folder(key)).rmdir()


def new_record(need: EncoderNeed, **values: Any) -> EncoderRecord:
    """The card of an encoder, with what follows from what it is made of.

    Args:
        need: what it is made of.
        values: further fields.
    """
    return EncoderRecord(
        key=need.key,
        architecture=json.loads(json.dumps(vars(need.architecture))),
        recipe=need.recipe.to_dict(),
        teacher=need.teacher,
        corpus=need.corpus,
        iterations=0 if need.recipe.method == "warm_start" else need.recipe.iterations,
        **values,
    )


def finished_keys(store: EncoderStore, keys: list[str]) -> set[str]:
    """Those of some encoders that need not be made; a card that cannot be read is mended later."""
    return {record.key for record in store.read_all(keys)[0] if record.status == FINISHED}
