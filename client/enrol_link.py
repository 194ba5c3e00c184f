"""A department asks the coordinator about its membership: one small question, one answer (``common.enrolment``)."""

from __future__ import annotations

import hashlib
import ssl
import time
from pathlib import Path
from typing import Final

import httpx

from commonroot.client.tls import tls_failure, trusting, trusting_nobody
from commonroot.common.enrolment import ROUTE, Answer, Question
from commonroot.common.errors import EnrolmentRefused, Malformed, Unreachable, WrongAuthority, all_errors

#: The longest answer: a roster of 1,000 departments has 3 MB.
_MAX_ANSWER: Final = 16 * 1024 * 1024
_TIMEOUT: Final = 20.0
#: Between two attempts, in seconds: at first, and at the most.
_PAUSE, _LONGEST_PAUSE = 0.25, 2.0
#: What passes by itself: too many questions, a coordinator that is busy or starting.
_PASSING: Final = frozenset({408, 429, 500, 502, 503, 504})


def fetch_ca(address: str, pin: bytes, *, patience: float = 0.0) -> bytes:
    """The federation's CA certificate, PEM, which whoever answers at ``address`` gives, if it is the pinned one.

    Parameters  pin: SHA-256 of the certificate in DER; patience: seconds for which a coordinator that does not answer
                is asked again
    Raises      WrongAuthority: it gives another one; Unreachable
    """
    answer = _ask(address, trusting_nobody(), Question(ask="ca"), patience)
    return pinned_ca((answer.ca or "").encode(), pin, who=f"the coordinator at {address}")


def pinned_ca(pem: bytes, pin: bytes, *, who: str) -> bytes:
    """The one certificate of that pin, written anew, so that nothing else comes along.  Raises WrongAuthority."""
    try:
        first, end, _ = pem.decode("ascii").partition("-----END CERTIFICATE-----")
        der = ssl.PEM_cert_to_DER_cert((first + end).strip())
    except ValueError as error:
        raise WrongAuthority(f"{who} gives no CA certificate") from error
    if hashlib.sha256(der).digest() != pin:
        raise WrongAuthority(
            f"{who} gives another CA certificate than the token's",
            hint="somebody else answers there, or the token is of an earlier federation: ask central IT",
        )
    return ssl.DER_cert_to_PEM_cert(der).encode()


def ask(address: str, ca: Path, question: Question, *, patience: float = 0.0) -> Answer:
    """The coordinator's answer.

    Raises  Unreachable; WrongAuthority: somebody else answers; or the error whose code the coordinator refuses with
    """
    return _ask(address, trusting(ca), question, patience)


def _ask(address: str, context: ssl.SSLContext, question: Question, patience: float) -> Answer:
    deadline, pause = time.monotonic() + patience, _PAUSE
    with httpx.Client(verify=context, timeout=_TIMEOUT, trust_env=False) as client:
        while True:
            try:
                status, body = _post(client, address, question.to_json())
                if status not in _PASSING:
                    return _understood(status, body, address)
                why = f"it answers with status {status}"
            except httpx.TransportError as error:
                if failed := tls_failure(error):
                    raise WrongAuthority(f"the coordinator's certificate: {failed}") from error
                why = "it does not answer"
            except httpx.InvalidURL as error:
                raise Unreachable(f"{address} is no address") from error
            if time.monotonic() + pause > deadline:
                raise Unreachable(f"the coordinator at {address}: {why}")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def _post(client: httpx.Client, address: str, content: bytes) -> tuple[int, bytes]:
    headers = {"content-type": "application/json"}
    with client.stream("POST", f"https://{address}{ROUTE}", content=content, headers=headers) as answer:
        body = bytearray()
        for piece in answer.iter_bytes():
            body += piece
            if len(body) > _MAX_ANSWER:
                raise Malformed("the coordinator's answer has no end")
        return answer.status_code, bytes(body)


def _understood(status: int, body: bytes, address: str) -> Answer:
    if status not in (200, 403):
        raise Unreachable(f"whoever answers at {address} takes no such questions (status {status})")
    answer = Answer.from_json(body)
    if answer.refused is not None:
        kind = all_errors().get(answer.refused, EnrolmentRefused)
        meaning = " ".join((kind.__doc__ or "").split())
        raise kind(f"the coordinator refuses: {meaning}")
    if status != 200:
        raise Malformed("the coordinator refuses without a code")
    return answer
