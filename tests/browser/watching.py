"""What a page complains of."""

from __future__ import annotations


def watch(page, faults: list[str]) -> None:
    """Note errors of the console and of scripts, and what could not be loaded but for what leaving a page cuts off."""
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("response", lambda answer: None if answer.status < 400 else faults.append(f"{answer.status} {answer.url}"))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "requestfailed",
        lambda request: None if "ERR_ABORTED" in (request.failure or "") else faults.append(request.url),
    )
