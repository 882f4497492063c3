"""Telling people what changed: a webhook with JSON, and whatever apprise reaches. Never fails what it tells of."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Sequence

from pocketbench.config.suite import Notify
from pocketbench.documents import to_doc
from pocketbench.night import Alarm, Night
from pocketbench.report.night_text import headline

TIMEOUT_S = 10.0


def tell(night: Night, notify: Notify) -> list[str]:
    """Tell of alarms whose state changed tonight, and of nothing else; what could not be told, in sentences."""
    if not night.changed:
        return []
    failed = []
    if notify.webhook is not None and (why := _post(notify.webhook, _doc(night))):
        failed.append(f"the webhook was not told: {why}")
    if notify.apprise and (why := _apprise(notify.apprise, headline(night), _lines(night.changed))):
        failed.append(f"nobody was told by apprise: {why}")
    return failed


def _doc(night: Night) -> bytes:
    doc = {
        "suite": night.suite,
        "night": night.label,
        "color": night.color,
        "exit_code": night.exit_code,
        "text": headline(night),
        "changed": [to_doc(alarm) for alarm in night.changed],
    }
    return json.dumps(doc).encode()


def _post(address: str, body: bytes) -> str | None:
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S):
            return None
    except urllib.error.HTTPError as error:
        return f"it answered {error.code}"
    except (OSError, ValueError) as error:
        # The address may hold a secret.
        return str(getattr(error, "reason", None) or error).replace(address, "its address")


def _lines(changed: Sequence[Alarm]) -> str:
    return "\n".join(
        f"{'accepted' if a.accepted else a.state} {a.color}: {a.title} on {a.device}, {a.metric}: {a.why}"
        for a in changed
    )


def _apprise(addresses: Sequence[str], title: str, body: str) -> str | None:
    try:
        import apprise
    except ImportError:
        return "it is not installed: pip install 'pocketbench[notify]'"
    told = apprise.Apprise()
    known = [told.add(address) for address in addresses]
    if not all(known):
        return f"address {known.index(False) + 1} of the suite's is none that it knows"
    return None if told.notify(title=title, body=body) else "a service did not take it"
