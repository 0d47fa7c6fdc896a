"""An encoder that `python -m ffcad pretrain` made goes into the store, as if a study made it."""

import time
from pathlib import Path
from typing import Any

from ffcad.config import ConfigError
from ffcad.encoder_weights import WeightsError, load_encoder_weights, read_card
from ffcad.pretrain_config import EncoderArchitecture, PretrainConfig
from ffcad.resnet import FFCResNet
from study.encoder_making import wrong_with
from study.encoders import EncoderError, EncoderNeed, EncoderRecord, EncoderStore, new_record
from study.lease_holders import describe
from study.leases import Waiter
from study.ledger import FINISHED, LedgerError

# In the place of the study that made it.
ELSEWHERE = "made elsewhere"


def add_encoder(store: EncoderStore, path: Path) -> EncoderRecord:
    """Puts a file onto the storage; studies that need just this encoder find it there.

    Args:
        store: on the storage.
        path: a .safetensors file with its card.

    Returns:
        Its record, the one that was there already if it was.

    Raises:
        EncoderError: if the file cannot be read, has no card or that of another version, or is not
            what its card says; or if somebody makes the same encoder now.
    """
    try:
        return _add(store, path, read_card(path))
    except WeightsError as e:
        raise EncoderError(str(e)) from e


def _add(store: EncoderStore, path: Path, card: dict[str, Any]) -> EncoderRecord:
    if not card:
        raise EncoderError(
            f"{path} has no card; give a file that `python -m ffcad pretrain` made, or name it "
            "with --encoder"
        )
    try:
        need = EncoderNeed(
            PretrainConfig.from_dict(card["recipe"]),
            EncoderArchitecture(**card["architecture"]),
            card["teacher"],
            card["corpus"],
        )
    except (ConfigError, KeyError, TypeError) as e:
        raise EncoderError(f"{path} has a card that this version does not know: {e}") from e
    if need.key != card.get("key"):
        raise EncoderError(
            f"{path} was made by another version (key {card.get('key')}, here {need.key}); make it "
            "anew, or name it with --encoder"
        )
    a = need.architecture
    weights = load_encoder_weights(FFCResNet(a.ratio, a.layers, lfu=a.lfu), str(path))
    waiter = Waiter(store.storage, store.folder(need.key), {"study": "encoders add"})
    lease = waiter.attempt()
    if lease is None:
        raise EncoderError(f"encoder {need.key} is being made by {describe(waiter.holder)}")
    try:
        if (known := _sound(store, need.key)) is not None:
            return known
        store.storage.upload(path, store.weights(need.key))
        record = new_record(
            need,
            status=FINISHED,
            study=ELSEWHERE,
            weights=weights,
            figures=card["figures"],
            history=[{**entry, "time": time.time()} for entry in card["history"]],
            images=card["images"],
            iteration=card["iterations"],
            seconds=card["seconds"],
            notes=card["notes"],
            began=time.time(),
            ended=time.time(),
        )
        store.write(record)
        return record
    finally:
        lease.forget()


def _sound(store: EncoderStore, key: str) -> EncoderRecord | None:
    """The record of an encoder that is finished and whose file is what the record says."""
    try:
        known = store.read(key)
        if known is None or known.status != FINISHED:
            return None
        with store.storage.at_hand(store.weights(key)) as path:
            return None if wrong_with(path, known) else known
    except (FileNotFoundError, LedgerError):
        return None
