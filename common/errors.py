"""Every way this project says no.

UsageError   ours: the call, the configuration or the data is wrong; fix it and try again
PeerError    theirs: the other side broke the protocol; stop, keep nothing, tell someone
RoundLost    nobody's: too few departments answered; the next round may well succeed

Codes never change meaning.  A message names what was expected and found, and never holds a tensor, a row, a share or
a key.  Only the code of an error travels to the other side (see ``messages.Refusal``); its text stays where it was
raised.
"""

from __future__ import annotations

from typing import ClassVar


class CommonrootError(Exception):
    """The root of the tree: a code that machines read, a message and a hint that people read."""

    code: ClassVar[str] = "CR00"
    hint: ClassVar[str] = ""
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.advice = self.hint if hint is None else hint

    def describe(self) -> dict[str, str]:
        """The error as a flat record, for ``--json`` and logs."""
        return {"code": self.code, "error": type(self).__name__, "message": str(self), "hint": self.advice}


class UsageError(CommonrootError):
    """Ours: the call, the configuration or the data is wrong."""

    code = "CR01"
    exit_code = 2


class PeerError(CommonrootError):
    """Theirs: the other side broke the protocol."""

    code = "CR02"
    hint = "the other side is faulty or hostile: keep the log of both sides before anything else"
    exit_code = 3


class RoundLost(CommonrootError):
    """Nobody's: this round came to nothing and changed nothing."""

    code = "CR03"
    hint = "nothing was learned and the backbone is unchanged; the next round may well succeed"
    exit_code = 4


# -- ours ----------------------------------------------------------------------------------------------------------


class ConfigError(UsageError):
    """A configuration file or option has a wrong or missing field."""

    code = "CR10"
    hint = "see the commented example that `init` writes"


class DataError(UsageError):
    """A department's table does not fit its task; every problem is listed at once."""

    code = "CR11"
    hint = "run `commonroot department check` after mending the file"


class NotApproved(UsageError):
    """The charter that the coordinator wants to run was not approved by this department."""

    code = "CR12"
    hint = "read the charter, then `commonroot department approve DIR CHARTER.json`"


class PortTaken(UsageError):
    """The address to listen on is in use or may not be bound."""

    code = "CR13"
    hint = "stop the other program or choose another port"


class ForeignState(UsageError):
    """A folder belongs to another federation, department or layout version."""

    code = "CR14"
    hint = "point at the folder that `init` made for this federation"


class StorageFull(UsageError):
    """The disk refused a write; what was there before is intact."""

    code = "CR15"
    hint = "free some space and start again: nothing half-written was kept"


class TooFewDepartments(UsageError):
    """A sum over one or two departments would show one of them to the other."""

    code = "CR16"
    hint = "a federation needs at least three departments"


class KeyFileError(UsageError):
    """A key, certificate or roster file is missing, unreadable or of the wrong kind."""

    code = "CR17"
    hint = "keys are made by `init` and never copied between departments"


class ManifestError(UsageError):
    """Terms and tensors do not fit: a wrong shape, an unknown or a private name, a value that is no number."""

    code = "CR18"
    hint = "only what the manifest lists may be sent, in the shape it lists"


class TrainingDiverged(UsageError):
    """Local training produced values that are not numbers; nothing was sent."""

    code = "CR19"
    hint = "lower the learning rate in the charter, or look for extreme values in the data"


class NodeRefused(UsageError):
    """The coordinator's hub does not accept this node: its key is unknown, or already in use."""

    code = "CR60"
    hint = "ask central IT whether this department is in the current roster, and that it runs only once"


class WrongAuthority(UsageError):
    """The coordinator's certificate was not issued by the authority this department pinned."""

    code = "CR61"
    hint = "check the address and the CA certificate you were given"


class ClockSkew(UsageError):
    """This machine's clock and the coordinator's differ by more than node authentication allows."""

    code = "CR62"
    hint = "synchronise the clock (chrony or systemd-timesyncd) and start again"


class Unreachable(UsageError):
    """The coordinator does not answer."""

    code = "CR63"
    hint = "check address, port and firewall, and that `coordinator up` runs; a daemon goes on trying"


class SourceChanged(UsageError):
    """A department's source or its ``[data]`` section changed under a run, whose split must stay what it was."""

    code = "CR64"
    hint = "put the source back as it was; a new run takes the new one"


class StatisticsMissing(UsageError):
    """A charter builds on shared statistics that this department does not hold."""

    code = "CR69"
    hint = "take part in the run of the statistics charter to its end first"


class ProcessDied(UsageError):
    """One of the processes of a demo or benchmark ended by itself."""

    code = "CR70"
    hint = "the log named in the message says why"


class UnknownBenchmark(UsageError):
    """There is no benchmark of that name."""

    code = "CR71"
    hint = "`commonroot bench --help` lists them"


class DownloadFailed(UsageError):
    """Published data could not be fetched, or is not what was published; nothing of it was kept."""

    code = "CR72"
    hint = "try again; the publisher's page is in the dataset's description"


class DeviceFailed(UsageError):
    """The device that networks are computed on failed: its memory is full, or no way that it has is repeatable."""

    code = "CR73"
    hint = "fewer workers share the device's memory; without a device everything is computed on processors"


class BackboneMissing(UsageError):
    """The charter's backbone needs a package, a library or a checkpoint that this machine does not have."""

    code = "CR67"
    hint = "install what the message names, in the version that the charter says"


class BackboneMismatch(UsageError):
    """The package or checkpoint found here is not the one whose tensors or hashes the charter lists."""

    code = "CR68"
    hint = "every department needs the very same package or checkpoint: get it again from where the charter's came from"


class BadToken(UsageError):
    """This is no enrolment token, or one that was damaged or cut short while it was copied."""

    code = "CR55"
    hint = "copy the whole line that `commonroot coordinator enrol` printed"


class EnrolmentRefused(UsageError):
    """The coordinator does not accept what stands under this request: its token, or the key that signed it."""

    code = "CR56"
    hint = "ask central IT for a new token; the coordinator's log says why this one was refused"


class TokenExpired(UsageError):
    """The token's days are over."""

    code = "CR57"
    hint = "ask central IT for a new token"


class TokenRevoked(UsageError):
    """Central IT has revoked this token, or this department."""

    code = "CR58"
    hint = "ask central IT; a department that was revoked comes back with a new token and a new folder"


class TokenUsed(UsageError):
    """Another request was made with this token already: it is good for one."""

    code = "CR59"
    hint = "if that was not you, tell central IT at once: somebody else holds the token"


class WrongName(UsageError):
    """The token is for a department of another name."""

    code = "CR100"
    hint = "ask central IT for a token of your own"


class NameTaken(UsageError):
    """A department of this name, or with one of these keys, is enrolled already."""

    code = "CR101"
    hint = "a department changes its keys with `department rotate`; one that lost them is revoked first"


class StaleApplication(UsageError):
    """A request of an earlier epoch, an earlier one than the request that waits, or one with spent keys."""

    code = "CR102"
    hint = "make a new one with `commonroot department renew DIR`"


class SealedKey(UsageError):
    """A key file is sealed, and its passphrase or key file is missing or wrong."""

    code = "CR103"
    hint = "set COMMONROOT_PASSPHRASE, COMMONROOT_PASSPHRASE_FILE or COMMONROOT_KEY_FILE, or run it at a terminal"


class NotTheNextRoster(UsageError):
    """A roster that is not the next one: of another epoch, not made from the one that stands, or changed."""

    code = "CR104"
    hint = "make a new draft with `commonroot coordinator roster DIR --draft FILE` and have that one signed"


class OutsidePolicy(UsageError):
    """A charter asks for more than this department's policy permits."""

    code = "CR110"
    hint = "`commonroot department charters` names every rule; change policy.toml, or approve with --beyond-policy"


class Paused(UsageError):
    """This department contributes nothing at the moment: it was paused, or its policy keeps to other hours."""

    code = "CR111"
    hint = "`commonroot department resume`, or wait for the hours that policy.toml names"


class HasLeft(UsageError):
    """This department has left the federation for good; its keys are erased, its model and report are not."""

    code = "CR112"
    hint = "to take part again, make a new folder and be enrolled anew; predict, export and report go on working"


class DatabaseUnreachable(UsageError):
    """The journal's database does not answer, is locked, or went away for longer than it is waited for."""

    code = "CR120"
    hint = "see that the database runs and can be reached, and start again: the journal says how far it came"


class DatabaseRefused(UsageError):
    """The journal's database answers, and will not have us: password, name, rights or encoding."""

    code = "CR121"
    hint = "mend `database` in coordinator.toml or the variable that it names"


class AnotherCoordinator(UsageError):
    """Two coordinators on one journal: the second is refused, and one that was superseded stops."""

    code = "CR122"
    hint = "one coordinator a journal: stop the other; the lock of a host that died falls within half a minute"


class BackupDamaged(UsageError):
    """A backup is none, was cut short or changed, or holds what no backup holds; nothing of it was restored."""

    code = "CR123"
    hint = "take another backup"


class NewerLayout(ForeignState):
    """A database was written by a newer version of this program."""

    code = "CR124"
    hint = "install that version again, or restore a backup made before it"


class OlderLayout(ForeignState):
    """A database of an earlier version must be brought up to date, and a program of that version may be using it."""

    code = "CR125"
    hint = "stop whatever runs on it, then start this version's `up`, or `migrate`"


class RestoredFolder(UsageError):
    """This department's folder came from a backup, which holds no keys of an epoch: it needs those of the next."""

    code = "CR126"
    hint = "`commonroot department renew DIR`, have the request enrolled, and `join` the next roster"


# -- theirs --------------------------------------------------------------------------------------------------------


class Malformed(PeerError):
    """Bytes that no honest peer sends: cut short, trailing, out of order, out of range."""

    code = "CR20"


class BadSignature(PeerError):
    """A signature does not verify under the key that the roster names."""

    code = "CR21"


class WrongVersion(PeerError):
    """The peer speaks another version of the protocol."""

    code = "CR22"
    hint = "upgrade so that all sides run the same version"


class WrongFederation(PeerError):
    """The message is of another roster, epoch or charter than the one this side pinned."""

    code = "CR23"


class StaleRound(PeerError):
    """A round number that was already used, with different contents, or lies beyond what the roster permits."""

    code = "CR24"


class BadCohort(PeerError):
    """The cohort is too small, not inside the roster, or leaves out the department asked."""

    code = "CR25"


class OutsideCharter(PeerError):
    """The request asks for something that the approved charter does not permit."""

    code = "CR26"


class SecondSurvivorSet(PeerError):
    """The coordinator asked this department to confirm or open two different survivor sets for one round."""

    code = "CR27"
    hint = "the coordinator is faulty or hostile: compare ledgers with the other departments"


class TooFewSurvivors(PeerError):
    """The survivor set is smaller than the roster's floor, or not inside the cohort."""

    code = "CR28"


class BadBox(PeerError):
    """A sealed box does not open under this round's transcript."""

    code = "CR29"


class BadShare(PeerError):
    """A committee member's shares do not reconstruct what was committed to."""

    code = "CR30"


class CommitmentMismatch(PeerError):
    """The two ends of an edge committed to different pairwise secrets: one of them lied, which one cannot be told."""

    code = "CR31"


class AnotherSurvivorSet(PeerError):
    """One backbone was to be opened for two survivor sets: sums of the same values can be subtracted."""

    code = "CR32"
    hint = "a fixed survivor set is opened or given up: the coordinator must wait for the departments that are missing"


class UnknownRound(PeerError):
    """A request about a round that this side never took part in."""

    code = "CR33"


class BroadcastMismatch(PeerError):
    """The broadcast received is not the one whose hash the coordinator signed."""

    code = "CR34"


class ResultMismatch(PeerError):
    """The result the coordinator announces is not of the survivor set that this department opened."""

    code = "CR35"
    hint = "the coordinator is faulty or hostile: compare ledgers with the other departments"


class WrongSize(PeerError):
    """A payload is not exactly as long as the manifest says."""

    code = "CR36"


class Refused(PeerError):
    """The other side answered with a refusal; its code says why."""

    code = "CR37"
    hint = "the refusing side's own log says more"


class NotConfirmed(PeerError):
    """An opening of fewer than the whole cohort came without confirmations of its survivor set by a quorum."""

    code = "CR38"
    hint = "the coordinator is faulty or hostile: compare ledgers with the other departments"


class NotIntroduced(PeerError):
    """A cohort names a department that this one was never introduced to, so they share no keys."""

    code = "CR50"
    hint = "the coordinator withholds greetings or is confused: it must introduce departments before a round"


class NotCountersigned(PeerError):
    """Too few departments have shown that they see the same roster; nothing is sent under it."""

    code = "CR51"
    hint = "if it lasts, compare `department join`'s roster hash with other departments over another channel"


class SplitRoster(PeerError):
    """Two rosters of one epoch: somebody shows different departments different federations."""

    code = "CR52"
    hint = "keep both rosters and their signatures, and compare with the other departments before anything else"


class EpochRollback(PeerError):
    """An older roster was offered in place of a newer one."""

    code = "CR53"
    hint = "ask central IT for the newest roster; an old one would bring back departments that have left"


class BadGreeting(PeerError):
    """A greeting does not say what the protocol makes it say, or differs from an earlier one of its sender."""

    code = "CR54"
    hint = "its sender must `department renew` and be enrolled in a new epoch if its folder was restored or copied"


# -- nobody's ------------------------------------------------------------------------------------------------------


class RunStopped(RoundLost):
    """A run ended before its last round."""

    code = "CR39"
    hint = "`commonroot coordinator status` says why; the processes' logs say more"


class NotEnoughUploads(RoundLost):
    """Fewer departments than the floor, or than open a sum, uploaded before the deadline."""

    code = "CR40"


class NotEnoughShares(RoundLost):
    """Fewer committee members than the opening quorum answered before the deadline."""

    code = "CR41"
    hint = "nothing was learned and the backbone is unchanged; the same sum is asked for again until enough answer"


class SumRejected(RoundLost):
    """The opened sum lies outside the range that honest departments can produce."""

    code = "CR42"
    hint = "some department sent garbage; the round is lost, the backbone is not"


def all_errors() -> dict[str, type[CommonrootError]]:
    """Every error class by code; the codes are unique, and a test holds them to it."""
    found: dict[str, type[CommonrootError]] = {}
    todo: list[type[CommonrootError]] = [CommonrootError]
    while todo:
        kind = todo.pop()
        todo.extend(kind.__subclasses__())
        found[kind.code] = kind
    return found
