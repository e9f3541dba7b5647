"""When to stop: a signal or a deadline, and every wait ends soon after."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from backup.errors import DeadlineError, SignalledError
from backup.stop import SLICE_SECONDS, Grace, Stop, on_signals


class Time:
    """A clock and a sleep that take no time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        """Give the time."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let the time go on."""
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    """Replace the sleep of the operating system."""
    simulated = Time()
    monkeypatch.setattr("backup.stop.time.sleep", simulated.sleep)
    return simulated


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Whatever a test does, the handlers of the test runner come back."""
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def test_a_run_goes_on_until_it_is_told_to_stop() -> None:
    """Without a deadline and a signal there is no end."""
    stop = Stop()

    stop.check()
    assert not stop.requested


def test_a_signal_stops_the_run_and_gives_its_exit_code() -> None:
    """128 + N, as a shell would say; and the name, for people."""
    stop = Stop()
    stop.request(signal.SIGTERM)

    assert stop.requested
    with pytest.raises(SignalledError, match=r"^stopped by SIGTERM$") as caught:
        stop.check()
    assert caught.value.exit_code == 143


def test_the_first_signal_is_the_one_reported() -> None:
    """An impatient ^C after Kubernetes' SIGTERM does not change what happened."""
    stop = Stop()
    stop.request(signal.SIGTERM)
    stop.request(signal.SIGINT)

    with pytest.raises(SignalledError, match="SIGTERM"):
        stop.check()


def test_the_deadline_stops_the_run_when_it_is_reached(time: Time) -> None:
    """Not before, and from then on; it says how long it was and how to change it."""
    stop = Stop(seconds=21600, monotonic=time.monotonic)
    time.now += 21599.9
    stop.check()
    before = stop.requested
    time.now += 0.1

    assert (before, stop.requested) == (False, True)
    with pytest.raises(DeadlineError, match=r"^the deadline of 21600 s is over$") as caught:
        stop.check()
    assert "BACKUP_DEADLINE" in caught.value.hints[0]


def test_a_signal_is_reported_rather_than_the_deadline(time: Time) -> None:
    """Exit codes: a signal is more severe."""
    stop = Stop(seconds=1, monotonic=time.monotonic)
    time.now += 2
    stop.request(signal.SIGINT)

    with pytest.raises(SignalledError):
        stop.check()


def test_a_sleep_lasts_as_long_as_asked_in_short_slices(time: Time) -> None:
    """Between the slices there is a chance to stop."""
    stop = Stop(monotonic=time.monotonic)

    stop.sleep(1.1)

    assert sum(time.slept) == pytest.approx(1.1)
    assert max(time.slept) <= SLICE_SECONDS


def test_a_sleep_ends_within_a_slice_of_a_signal(
    time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM during a long retry must not wait for its end."""
    stop = Stop(monotonic=time.monotonic)

    def interrupted(seconds: float) -> None:
        time.sleep(seconds)
        stop.request(signal.SIGTERM)

    monkeypatch.setattr("backup.stop.time.sleep", interrupted)

    with pytest.raises(SignalledError):
        stop.sleep(3600)
    assert time.slept == [SLICE_SECONDS]


def test_a_sleep_ends_at_the_deadline(time: Time) -> None:
    """Waiting is no way around it."""
    stop = Stop(seconds=0.5, monotonic=time.monotonic)

    with pytest.raises(DeadlineError):
        stop.sleep(3600)
    assert sum(time.slept) < 0.5 + 2 * SLICE_SECONDS


@pytest.mark.parametrize("seconds", [0, -1])
def test_a_sleep_of_no_length_asks_too(time: Time, seconds: float) -> None:
    """A loop around it ends."""
    stop = Stop(monotonic=time.monotonic)
    stop.request(signal.SIGTERM)

    with pytest.raises(SignalledError):
        stop.sleep(seconds)
    assert time.slept == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_real_signal_only_asks_for_the_end(signum: signal.Signals) -> None:
    """It interrupts nothing: the code in the block decides where it is safe to stop."""
    stop = Stop()
    with on_signals(stop):
        os.kill(os.getpid(), signum)
        reached = True

    assert reached
    with pytest.raises(SignalledError, match=signum.name):
        stop.check()


@pytest.mark.parametrize("error", [None, KeyError("any")])
def test_afterwards_signals_do_what_they_did_before(error: Exception | None) -> None:
    """Also when the block fails: a second ^C must be able to end the process."""
    seen: list[int] = []
    signal.signal(signal.SIGTERM, lambda signum, _frame: seen.append(signum))
    before = signal.getsignal(signal.SIGINT)
    stop = Stop()
    try:
        with on_signals(stop):
            if error is not None:
                raise error
    except KeyError:
        pass
    os.kill(os.getpid(), signal.SIGTERM)

    assert seen == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGINT) is before
    assert not stop.requested


def test_grace_is_long_while_nobody_is_told_to_end(time: Time) -> None:
    """What has to be done at the end is tried for as long as may be."""
    grace = Grace(Stop(), seconds=600, grace_seconds=60, monotonic=time.monotonic)
    time.now += 599

    grace.check()
    time.now += 1

    with pytest.raises(DeadlineError, match="the deadline of 600 s is over"):
        grace.check()


def test_grace_is_short_from_when_the_run_is_told_to_end(time: Time) -> None:
    """It ends before the kubelet kills it, whether it was told so before or meanwhile."""
    run = Stop()
    grace = Grace(run, seconds=600, grace_seconds=60, monotonic=time.monotonic)
    time.now += 100
    run.request(signal.SIGTERM)
    grace.check()
    time.now += 59

    grace.check()
    time.now += 1

    with pytest.raises(DeadlineError, match="the deadline of 60 s is over"):
        grace.check()
