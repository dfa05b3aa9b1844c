"""Every error the house raises on purpose.

An error's message is a sentence for the person who can mend it: what is wrong, where, and how to put it right. Errors of
libraries are translated into these once, at the edge where they arise, with `raise … from`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


class CorpusmillError(Exception):
    """Something was refused or could not be done; the message says what, where and how to mend it."""

    code = "internal"


@dataclass(frozen=True, slots=True)
class FieldFault:
    """One faulty field of a request: a JSON pointer (RFC 6901) or a query parameter's name, and what is wrong."""

    pointer: str
    message: str


class InvalidRequest(CorpusmillError):
    """A request that can be read but not accepted."""

    code = "invalid_request"

    def __init__(self, message: str, *faults: FieldFault, code: str | None = None) -> None:
        super().__init__(message)
        self.faults = faults
        if code:
            self.code = code


class UnknownModel(InvalidRequest):
    """No such model, or one that may not be loaded here."""

    code = "unknown_model"


class UnsuitableModel(InvalidRequest):
    """The model is there but cannot do the task asked of it."""

    code = "unsuitable_model"


class NotFound(CorpusmillError):
    """Nothing has that id."""

    code = "not_found"


class Conflict(CorpusmillError):
    """The thing is in a state that does not allow this."""

    code = "conflict"


class Gone(CorpusmillError):
    """What was asked for was there, and somebody has deleted it."""

    code = "gone"


class TooLarge(CorpusmillError):
    """More bytes than a configured limit allows."""

    code = "too_large"


class UnsupportedFormat(CorpusmillError):
    """A media type or encoding that no reader knows."""

    code = "unsupported_format"


class StorageFull(CorpusmillError):
    """The disk holding the data directory takes nothing more: it is full, or read-only after a fault."""

    code = "storage_full"


class ResourcesUnavailable(CorpusmillError):
    """The machine has no file descriptor, process or memory left, or lacks the folder of all corpora; nothing was changed,
    and the same may work in a moment."""

    code = "resources_unavailable"


class InvalidSettings(CorpusmillError):
    """A setting is missing or wrong; nothing was started."""

    code = "invalid_settings"


class LeaseLost(CorpusmillError):
    """The shard was taken by another worker, or its job is gone: nothing more may be written for it."""

    code = "lease_lost"


class ModelFault(CorpusmillError):
    """A model cannot be loaded or run: the job that asked for it fails with this message, other jobs go on."""

    code = "model_fault"


class CorpusDamaged(CorpusmillError):
    """A stored corpus's files are not what was written: jobs over it fail with this message, which quotes no document, and
    other jobs go on."""

    code = "corpus_damaged"


class DeviceLost(CorpusmillError):
    """A fault of the device that only a new process can get over; it says nothing against the documents."""

    code = "device_lost"


DocumentErrorCode = Literal[
    "empty_text", "too_long", "unsupported_language", "out_of_memory", "timeout", "worker_lost", "internal"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentError:
    """Why one document has no output. `retryable` says whether running it again may help."""

    code: DocumentErrorCode
    message: str
    retryable: bool = False


class DatabaseUnavailable(CorpusmillError):
    """The database did not answer; nothing was changed, and the same may work in a moment."""

    code = "database_unavailable"


class NewerVersion(CorpusmillError):
    """Stored by a newer version, which asks for what this program does not know: it is for a program of that version."""

    code = "newer_version"


class Unauthorized(CorpusmillError):
    """No key, or one that is not the operator's."""

    code = "unauthorized"


class Forbidden(CorpusmillError):
    """A request that a page of another site could have made a browser send."""

    code = "forbidden"


class BrokerUnavailable(CorpusmillError):
    """The broker did not answer; what was to be queued is in the database, and the sweeper queues it later."""

    code = "broker_unavailable"


class BrokerFull(BrokerUnavailable):
    """The broker answers, and takes nothing: it cannot write to its disk, or has no memory left. `why` says which."""

    def __init__(self, message: str, *, why: str) -> None:
        super().__init__(message)
        self.why = why


class PlaceUnavailable(CorpusmillError):
    """A place of the operator's did not answer; nothing is wrong with the schedule, and the same may work in a moment.

    `private` is what the operator alone may read: it may hold addresses and accounts.
    """

    code = "place_unavailable"

    def __init__(self, message: str, *, private: str | None = None) -> None:
        super().__init__(message)
        self.private = private


class PlaceFault(CorpusmillError):
    """A place answered that it cannot do what is asked: no such table, column, file, project or permission. A person must
    mend it."""

    code = "place_fault"
