"""What Flower itself does with the same numbers: the plain client path, FedAvg, and its SecAgg+, step by step.

Nothing is imitated: these are Flower's own functions in the order in which its client and server call them, with the
network left out.  SecAgg+ is Bell et al., 2020, as flwr ships it for its legacy interface.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.message import make_message
from flwr.app.message_type import MessageType
from flwr.app.metadata import Metadata
from flwr.client.mod.secure_aggregation.secaggplus_mod import (
    SecAggPlusState,
    _collect_masked_vectors,
    _setup,
    _share_keys,
)
from flwr.common import bytes_to_ndarray, ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    factor_extract,
    get_parameters_shape,
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import dequantize
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key
from numpy.typing import NDArray

from commonroot.common.parcel import MASKED, Parcel
from commonroot.flower import MESSAGE_TYPE, Envelope, Sealed

Tensors = dict[str, NDArray[np.float32]]
#: Its defaults.
_CLIPPING, _TARGET, _MODULUS, _WEIGHT = 8.0, 1 << 22, 1 << 32, 1000.0
_EXAMPLES = 100


def _metadata() -> Metadata:
    return Metadata(
        run_id=1,
        message_id="",
        src_node_id=2,
        dst_node_id=1,
        reply_to_message_id="0" * 64,
        group_id="1",
        created_at=time.time(),
        ttl=60.0,
        message_type=MessageType.TRAIN,
    )


def plain_reply(tensors: Tensors) -> int:
    """Bytes that a client pushes for a plain reply: ``Array`` from each tensor, the record, and ``push_message``."""
    content = RecordDict(
        {
            "arrays": ArrayRecord({name: Array(tensor) for name, tensor in tensors.items()}),
            "metrics": MetricRecord({"num-examples": _EXAMPLES}),
        }
    )
    message: Message = make_message(metadata=_metadata(), content=content)
    message.metadata.__dict__["_message_id"] = message.object_id
    with no_object_id_recompute():
        get_object_tree(message)
        objects = get_all_nested_objects(message)
        return sum(len(thing.deflate()) for thing in objects.values())


def secure_reply(head: bytes, body: memoryview, pieces: tuple[bytes, ...]) -> int:
    """Bytes that our client pushes for a masked vector: the same steps of the same library, by way of our adapter."""
    metadata = _metadata()
    metadata.__dict__["_message_type"] = MESSAGE_TYPE
    envelope = Envelope(Sealed(Parcel(MASKED, head, body, pieces)), metadata)
    wanted = {envelope.message_id, *envelope_objects(envelope)}
    return sum(len(content) for _, content in envelope.contents(wanted))


def envelope_objects(envelope: Envelope) -> Iterable[str]:
    """The ids of everything below a message."""
    waiting = [envelope.tree]
    while waiting:
        tree = waiting.pop()
        yield tree.object_id
        waiting.extend(tree.children)


def plain_results(tensors: Sequence[Tensors]) -> list[RecordDict]:
    """Replies as Flower's server holds them when it aggregates: already received and put together."""
    return [
        RecordDict(
            {
                "arrays": ArrayRecord({name: Array(tensor) for name, tensor in each.items()}),
                "metrics": MetricRecord({"num-examples": _EXAMPLES}),
            }
        )
        for each in tensors
    ]


def fedavg(results: list[RecordDict]) -> ArrayRecord:
    """The aggregation of ``flwr.serverapp.strategy.FedAvg``."""
    return aggregate_arrayrecords(results, "num-examples")


def add_loop(vectors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The mean of float32 vectors as fast as torch makes it, in one thread."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        total = torch.zeros(len(vectors[0]))
        for vector in vectors:
            total.add_(torch.from_numpy(vector))
        return cast(NDArray[np.float32], total.div_(len(vectors)).numpy())
    finally:
        torch.set_num_threads(before)


class SecAggPlus:
    """One round of Flower's SecAgg+ among n clients with every share handed to everybody, in this process.

    All clients set up and share their keys; ``client_upload`` is one client's third stage, ``server`` is what the
    server does with the uploads and with the shares that the survivors return.
    """

    def __init__(self, n: int, tensors: Tensors) -> None:
        self.n = n
        self._parameters = ndarrays_to_parameters(list(tensors.values()))
        self._states = [SecAggPlusState(nid=1000 + i) for i in range(n)]
        threshold = n // 2 + 1
        setup: dict[str, Any] = {
            Key.SAMPLE_NUMBER: n,
            Key.SHARE_NUMBER: n,
            Key.THRESHOLD: threshold,
            Key.CLIPPING_RANGE: _CLIPPING,
            Key.TARGET_RANGE: _TARGET,
            Key.MOD_RANGE: _MODULUS,
            Key.MAX_WEIGHT: _WEIGHT,
        }
        public: dict[str, Any] = {}
        for state in self._states:
            keys = _setup(state, ConfigRecord(dict(setup)))
            public[str(state.nid)] = [keys[Key.PUBLIC_KEY_1], keys[Key.PUBLIC_KEY_2]]
        self._public = {int(nid): keys[0] for nid, keys in public.items()}
        self._inbox: dict[int, tuple[list[int], list[bytes]]] = {state.nid: ([], []) for state in self._states}
        for state in self._states:
            sent = _share_keys(state, ConfigRecord(dict(public)))
            for to, box in zip(
                cast(list[int], sent[Key.DESTINATION_LIST]), cast(list[bytes], sent[Key.CIPHERTEXT_LIST]), strict=True
            ):
                self._inbox[to][0].append(state.nid)
                self._inbox[to][1].append(box)

        nothing = ndarrays_to_parameters([np.zeros(1, np.float32)])
        for state in self._states:  # the third stage also opens the shares that the fourth returns
            self._third_stage(state, nothing)

    def client_upload(self, who: int = 0) -> list[bytes]:
        """The masked vector of one client."""
        return self._third_stage(self._states[who], self._parameters)

    def _third_stage(self, state: SecAggPlusState, parameters: Any) -> list[bytes]:
        sources, boxes = self._inbox[state.nid]
        configs = ConfigRecord({Key.SOURCE_LIST: list(sources), Key.CIPHERTEXT_LIST: list(boxes)})
        sent = _collect_masked_vectors(state, configs, _EXAMPLES, parameters)
        return cast(list[bytes], sent[Key.MASKED_PARAMETERS])

    def server(self, uploads: Sequence[list[bytes]], dropped: int) -> list[NDArray[Any]]:
        """From the survivors' uploads to the mean; the first ``dropped`` clients were lost before they uploaded."""
        dead = {state.nid for state in self._states[:dropped]}
        shares: dict[int, list[bytes]] = {state.nid: [] for state in self._states}
        for state in self._states[dropped:]:
            for nid in shares:
                held = state.sk1_share_dict if nid in dead else state.rd_seed_share_dict
                shares[nid].append(held[nid])
        masked: list[NDArray[Any]] | None = None
        for upload in uploads:
            vector = [bytes_to_ndarray(each) for each in upload]
            masked = vector if masked is None else parameters_addition(masked, vector)
        if masked is None:
            raise ValueError("a sum needs uploads")
        masked = parameters_mod(masked, _MODULUS)
        for nid, held_shares in shares.items():
            secret = combine_shares(held_shares)
            if nid not in dead:
                mask = pseudo_rand_gen(secret, _MODULUS, get_parameters_shape(masked))
                masked = parameters_subtraction(masked, mask)
                continue
            for other in shares:
                if other == nid:
                    continue
                key = generate_shared_key(bytes_to_private_key(secret), bytes_to_public_key(self._public[other]))
                mask = pseudo_rand_gen(key, _MODULUS, get_parameters_shape(masked))
                combine = parameters_addition if nid > other else parameters_subtraction
                masked = combine(masked, mask)
        ratio, masked = factor_extract(parameters_mod(masked, _MODULUS))
        mean = dequantize(masked, _CLIPPING, _TARGET)
        for each in mean:
            each += -(self.n - dropped - 1) * _CLIPPING
            each *= _TARGET / ratio
        return mean
