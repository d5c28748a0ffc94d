"""TokenProvider: when it renews, what it serves meanwhile, and who waits for whom."""

import asyncio
import concurrent.futures
import copy
import inspect
import os
import pickle
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone

import pytest

import bedrock_token as bt
from tests.helpers import SECRET, Clock, Source, Threads, cases, run, until

# Soon after 1970: there a float still tells a nanosecond. Windows knows no time before.
START = 10000.0
HOUR = 3600


def at(seconds):
    return datetime.fromtimestamp(seconds, timezone.utc)


def keys(end=None, name="FIRST"):
    """Credentials that end at that time, or do not say when."""
    return bt.Credentials(f"ASIA{name}", SECRET, "session", end and at(end), name)


LASTING = keys(START + 1000 * HOUR)
OTHER = keys(START + 1000 * HOUR, "OTHER")
SILENT = keys()


@pytest.fixture
def clock():
    return Clock(START)


def provider_of(source, clock, expires_in=12 * HOUR):
    return bt.TokenProvider(source, "us-east-1", expires_in, clock=clock)


def are_copies(errors, original):
    """Whether each has its own of the same error: raising one writes into it."""
    alike = [(type(error), error.args) == (type(original), original.args) for error in errors]
    return all(alike) and len(set(map(id, [original, *errors]))) == 1 + len(errors)


# --- one token for as long as it is good ---------------------------------------------------

@pytest.mark.parametrize("ask", cases([
    ("called", lambda provider: provider()),
    ("token", lambda provider: provider.token()),
    ("async_token", lambda provider: run(provider.async_token())),
]))
def test_ways_to_ask(ask, clock):
    source = Source(LASTING)
    provider = provider_of(source, clock)
    token = ask(provider)
    assert token == bt.get_token(LASTING, "us-east-1", now=at(START))
    assert isinstance(token, bt.Token)
    assert token is provider() is provider.token() is run(provider.async_token())
    assert source.calls == 1


def test_async_token_is_awaited_and_token_is_not():
    assert inspect.iscoroutinefunction(bt.TokenProvider.async_token)
    assert not inspect.iscoroutinefunction(bt.TokenProvider.token)


def test_nothing_is_looked_up_before_it_is_asked_for(clock):
    source = Source(LASTING)
    provider_of(source, clock)
    assert source.calls == 0


@pytest.mark.parametrize("expires_in, credentials_end, end", cases([
    ("what was asked for", HOUR, START + 2 * HOUR, START + HOUR),
    ("one second", 1, START + 2 * HOUR, START + 1),
    ("a timedelta", timedelta(hours=1), START + 2 * HOUR, START + HOUR),
    ("the credentials' end", 12 * HOUR, START + 2 * HOUR, START + 2 * HOUR),
    ("no end of the credentials", HOUR, None, START + HOUR),
]))
def test_expiration(expires_in, credentials_end, end, clock):
    provider = provider_of(Source(keys(credentials_end)), clock, expires_in)
    assert provider().expiration == at(end)


LIVES = [
    # name, lifetime, margin: a fifth of it, 15 minutes at most
    ("12 h", 12 * HOUR, 900),
    ("75 min", 75 * 60, 900),
    ("1 h", HOUR, 720),
    ("100 s", 100, 20),
    ("40 s", 40, 8),
]


def limited_by(what, life):
    """(expires_in, first credentials) for a token of that lifetime."""
    return (life, LASTING) if what == "request" else (12 * HOUR, keys(START + life))


@pytest.mark.parametrize("what", ["request", "credentials"])
@pytest.mark.parametrize("life, left, calls", cases([
    row for name, life, margin in LIVES for row in (
        (f"{name}, all of it", life, life, 1),
        (f"{name}, margin", life, margin, 1),
        (f"{name}, margin - 1 s", life, margin - 1, 2),
        (f"{name}, end", life, 0, 2),
        (f"{name}, long after", life, -168 * HOUR, 2),
    )
]))
def test_renewed_inside_the_margin(what, life, left, calls, clock):
    expires_in, credentials = limited_by(what, life)
    source = Source(credentials, OTHER)
    provider = provider_of(source, clock, expires_in)
    first = provider()
    clock.now = START + life - left
    second = provider()
    assert source.calls == calls
    assert (second is first) == (calls == 1)
    assert second.expiration > at(clock.now)


NANOSECOND = 1e-9


@pytest.mark.parametrize("what", ["request", "credentials"])
@pytest.mark.parametrize("life, left, is_served", cases([
    ("12 h, 899 s", 12 * HOUR, 899, True),
    ("12 h, 10 s", 12 * HOUR, 10, True),
    ("12 h, 10 s - 1 ns", 12 * HOUR, 10 - NANOSECOND, False),
    ("12 h, 0", 12 * HOUR, 0, False),
    ("12 h, after the end", 12 * HOUR, -1, False),
    ("12 h, after a week", 12 * HOUR, -168 * HOUR, False),
    ("100 s, 10 s", 100, 10, True),
    ("100 s, 10 s - 1 ns", 100, 10 - NANOSECOND, False),
    ("50 s, 10 s", 50, 10, True),
    ("50 s, 10 s - 1 ns", 50, 10 - NANOSECOND, False),
    # A life under 50 s has the margin as its last moment: 10 s of 5 would leave no token at all.
    ("40 s, 8 s", 40, 8, True),
    ("40 s, 8 s - 1 ns", 40, 8 - NANOSECOND, False),
    ("5 s, 1 s", 5, 1, True),
    ("5 s, 1 s - 1 ns", 5, 1 - NANOSECOND, False),
]))
def test_served_while_renewal_fails(what, life, left, is_served, clock):
    error = OSError("nobody there")
    expires_in, credentials = limited_by(what, life)
    provider = provider_of(Source(credentials, error), clock, expires_in)
    first = provider()
    clock.now = START + life - left
    if is_served:
        assert provider() is first
        assert run(provider.async_token()) is first
    else:
        for ask in (provider, lambda: run(provider.async_token())):
            with pytest.raises(OSError) as caught:
                ask()
            assert are_copies([caught.value], error)


@pytest.mark.parametrize("later, calls", [(0, 2), (29.9, 2), (30, 3), (300, 3)])
def test_pause_after_a_failure_inside_the_margin(later, calls, clock):
    source = Source(LASTING, OSError("nobody there"), OTHER)
    provider = provider_of(source, clock)
    first = provider()
    clock.now = START + 12 * HOUR - 800
    assert provider() is first
    clock.now += later
    assert (provider() is first) == (calls == 2)
    assert source.calls == calls


def test_no_pause_after_a_failure_when_no_token_is_left(clock):
    source = Source(LASTING, OSError("nobody there"), OSError("nobody there"), OTHER)
    provider = provider_of(source, clock)
    first = provider()
    clock.now = START + 12 * HOUR - 11
    assert provider() is first
    clock.now += 2
    with pytest.raises(OSError):
        provider()
    assert provider() == bt.get_token(OTHER, "us-east-1", now=at(clock.now))


def test_no_pause_after_a_failure_at_the_very_first(clock):
    provider = provider_of(Source(OSError("nobody there"), LASTING), clock)
    with pytest.raises(OSError):
        provider()
    assert provider().region == "us-east-1"


# --- Credentials that do not say when they end ---------------------------------------------

@pytest.mark.parametrize("credentials, later, calls", cases([
    ("silent, 299 s", SILENT, 299, 1),
    ("silent, 300 s", SILENT, 300, 2),
    ("silent, 1 h", SILENT, HOUR, 2),
    ("with an end, 1 h", LASTING, HOUR, 1),
]))
def test_looked_up_again(credentials, later, calls, clock):
    source = Source(credentials)
    provider = provider_of(source, clock)
    first = provider()
    clock.now += later
    assert provider() is first
    assert source.calls == calls


def test_looked_up_again_every_five_minutes(clock):
    source = Source(SILENT)
    provider = provider_of(source, clock)
    tokens = set()
    for clock.now in (START, START + 300, START + 599, START + 600, START + 899, START + 900):
        tokens.add(id(provider()))
    assert (source.calls, len(tokens)) == (4, 1)


@pytest.mark.parametrize("answer, is_kept", cases([
    ("the same", keys(), True),
    ("a new key", keys(name="OTHER"), False),
    ("the same key, with an end", keys(START + 48 * HOUR), False),
    ("an error", OSError("nobody there"), True),
    ("an end that is past", keys(START + 299), True),
]))
def test_what_is_found_the_second_time(answer, is_kept, clock):
    provider = provider_of(Source(SILENT, answer), clock)
    first = provider()
    clock.now += 300
    assert (provider() is first) == is_kept


@pytest.mark.parametrize("later, calls", [(29.9, 2), (30, 3)])
def test_pause_after_a_second_look_that_failed(later, calls, clock):
    source = Source(SILENT, OSError("nobody there"))
    provider = provider_of(source, clock)
    provider()
    clock.now += 300
    provider()
    clock.now += later
    provider()
    assert source.calls == calls


class Counted:
    """Looks like botocore's credentials, and counts how often it is read."""

    access_key, secret_key, token = SILENT.access_key_id, SECRET, "session"

    def __init__(self):
        self.calls = 0

    def get_frozen_credentials(self):
        self.calls += 1
        return self


def test_an_object_is_read_again(clock):
    credentials = Counted()
    provider = provider_of(credentials, clock)
    first = provider()
    clock.now += 300
    assert provider() is first
    assert credentials.calls == 2


def test_given_credentials_are_used_to_their_end(clock):
    provider = provider_of(keys(START + 14 * HOUR), clock)
    first = provider()
    clock.now += 11 * HOUR
    assert provider() is first
    clock.now += HOUR
    assert provider().expiration == at(START + 14 * HOUR)
    clock.now += 2 * HOUR
    with pytest.raises(bt.CredentialsError, match="expired"):
        provider()


def test_given_credentials_are_not_looked_up_again(environ, clock):
    environ["AWS_REGION"] = "eu-west-1"
    provider = bt.TokenProvider(SILENT, environ=environ, clock=clock)
    first = provider()
    environ["AWS_REGION"] = "us-west-2"
    clock.now += 11 * HOUR
    assert provider() is first


# --- clocks that jump ----------------------------------------------------------------------

def test_clock_set_back_before_the_minting(clock):
    source = Source(LASTING)
    provider = provider_of(source, clock)
    first = provider()
    clock.now -= HOUR
    second = provider()
    assert bt.decode_token(first)["issued_at"] == at(START)
    assert bt.decode_token(second)["issued_at"] == at(START - HOUR)
    assert source.calls == 2


def test_clock_set_back_and_the_source_fails(clock):
    source = Source(LASTING, OSError("nobody there"), OTHER)
    provider = provider_of(source, clock)
    first = provider()
    clock.now -= HOUR
    assert provider() is first
    clock.now += 29.9
    assert provider() is first
    assert source.calls == 2
    clock.now += 0.1
    assert bt.decode_token(provider())["access_key_id"] == OTHER.access_key_id


def test_clock_set_back_before_a_failure_ends_the_pause(clock):
    source = Source(LASTING, OSError("nobody there"), OTHER)
    provider = provider_of(source, clock)
    provider()
    clock.now = START + 12 * HOUR - 100
    provider()
    clock.now -= 300
    provider()
    assert source.calls == 3


@pytest.mark.parametrize("what", ["request", "credentials"])
@pytest.mark.parametrize("left, outcome", cases([
    ("margin", 720, "reused"),
    ("margin - 1 s", 719, "tried"),
    ("10 s", 10, "tried"),
    ("10 s - 1 ns", 10 - NANOSECOND, "raised"),
    ("end", 0, "raised"),
]))
def test_clock_set_back_within_the_lifetime(what, left, outcome, clock, monkeypatch):
    """Which the time since the minting shows: the token does not outlive what was signed."""
    monotonic = Clock(START)
    monkeypatch.setattr(time, "monotonic", monotonic)
    expires_in, credentials = limited_by(what, HOUR)
    source = Source(credentials, OSError("nobody there"))
    provider = provider_of(source, clock, expires_in)
    first = provider()
    clock.now += 60
    monotonic.now += HOUR - left
    if outcome == "raised":
        with pytest.raises(OSError):
            provider()
    else:
        assert provider() is first
    assert source.calls == (1 if outcome == "reused" else 2)


@pytest.mark.parametrize("answer, error", cases([
    ("renewed", OTHER, None),
    ("source fails", OSError("nobody there"), OSError),
    ("credentials died too", keys(START + 13 * HOUR), bt.CredentialsError),
]))
def test_after_a_suspension_no_dead_token(answer, error, clock):
    """Time went on and the machine's monotonic clock stood still."""
    provider = provider_of(Source(LASTING, answer), clock)
    provider()
    clock.now += 20 * HOUR
    if error:
        with pytest.raises(error):
            provider()
    else:
        assert provider().expiration == at(START + 32 * HOUR)


def test_the_clock_is_the_wall_clock_unless_given():
    before = int(time.time())
    token = bt.TokenProvider(SILENT, "us-east-1", HOUR)()
    assert before <= bt.decode_token(token)["issued_at"].timestamp() <= time.time()


# --- errors --------------------------------------------------------------------------------

class OwnError(Exception):
    pass


ERRORS = [
    bt.CredentialsError("configured and broken"), OwnError("own"), ValueError("value"),
    KeyError("key"), OSError("os"), asyncio.TimeoutError("asyncio"),
    concurrent.futures.TimeoutError("futures"), concurrent.futures.CancelledError("futures"),
    concurrent.futures.InvalidStateError("futures"),
]


@pytest.mark.parametrize("error", [*ERRORS, StopIteration("over")], ids=repr)
def test_errors_of_the_source_pass_through(error, clock):
    provider = provider_of(Source(error), clock)
    with pytest.raises(type(error)) as caught:
        provider()
    assert are_copies([caught.value], error)


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_errors_of_the_source_pass_through_asyncio(error, clock):
    async def ask():
        with pytest.raises(type(error)) as caught:
            await provider.async_token()
        return caught.value

    provider = provider_of(Source(error), clock)
    assert are_copies([run(ask())], error)


def test_stop_iteration_does_not_hang_asyncio(clock):
    """No coroutine can raise it: Python makes a RuntimeError of it."""
    provider = provider_of(Source(StopIteration("over")), clock)
    with pytest.raises(RuntimeError):
        run(provider.async_token())


@pytest.mark.parametrize("end", [START - 1, START], ids=["a second ago", "now"])
def test_expired_credentials(end, clock):
    with pytest.raises(bt.CredentialsError, match="FIRST.* expired"):
        provider_of(Source(keys(end)), clock)()


def test_expired_credentials_from_a_renewal(clock):
    provider = provider_of(Source(keys(START + HOUR)), clock)
    for clock.now in (START, START + HOUR - 10):
        assert provider().expiration == at(START + HOUR)
    clock.now = START + HOUR
    with pytest.raises(bt.CredentialsError, match="expired"):
        provider()


@pytest.mark.parametrize("arguments, error", cases([
    ("no lifetime", {"expires_in": 0}, ValueError),
    ("too long", {"expires_in": 12 * HOUR + 1}, ValueError),
    ("lifetime as text", {"expires_in": "3600"}, ValueError),
    ("True", {"expires_in": True}, ValueError),
    ("half a second", {"expires_in": timedelta(seconds=0.5)}, ValueError),
    ("no region", {"region": "nowhere/evil"}, ValueError),
    ("empty region", {"region": ""}, ValueError),
    ("region of another type", {"region": 1}, ValueError),
]))
def test_bad_arguments_are_refused_at_once(arguments, error):
    with pytest.raises(error):
        bt.TokenProvider(LASTING, **{"region": "us-east-1", **arguments})


# --- where credentials and region come from ------------------------------------------------

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIAENVIRONMENT", "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_REGION": "eu-west-1",
}
PROFILE = """
[dev]
aws_access_key_id = AKIAPROFILE
aws_secret_access_key = abc
region = ap-south-1
"""


@pytest.mark.parametrize("variables, arguments, key_id, region", cases([
    ("environment", ENVIRONMENT, {}, "AKIAENVIRONMENT", "eu-west-1"),
    ("region argument", ENVIRONMENT, {"region": " us-west-2 "}, "AKIAENVIRONMENT", "us-west-2"),
    ("profile argument", {}, {"profile": "dev"}, "AKIAPROFILE", "ap-south-1"),
    ("AWS_PROFILE", {"AWS_PROFILE": "dev"}, {}, "AKIAPROFILE", "ap-south-1"),
    ("AWS_REGION with a profile", {"AWS_REGION": "eu-west-1"}, {"profile": "dev"},
     "AKIAPROFILE", "eu-west-1"),
    ("profile's region for given credentials", {},
     {"profile": "dev", "credentials": LASTING}, "ASIAFIRST", "ap-south-1"),
    ("environment's region for given credentials", {"AWS_REGION": "eu-west-1"},
     {"credentials": Source(LASTING)}, "ASIAFIRST", "eu-west-1"),
]))
def test_configured(variables, arguments, key_id, region, environ, home):
    (home / ".aws").mkdir()
    (home / ".aws" / "credentials").write_text(PROFILE)
    environ.update(variables)
    token = bt.TokenProvider(**arguments, environ=environ, clock=Clock(START))()
    said = bt.decode_token(token)
    assert (said["access_key_id"], said["region"], token.region) == (key_id, region, region)


def test_the_environment_of_the_process(monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    assert bt.decode_token(bt.TokenProvider()())["access_key_id"] == "AKIAENVIRONMENT"


@pytest.mark.parametrize("variables, error", cases([
    ("no credentials", {"AWS_REGION": "eu-west-1"}, bt.NoCredentialsError),
    ("no region", {**ENVIRONMENT, "AWS_REGION": ""}, bt.NoRegionError),
    ("half of the keys", {**ENVIRONMENT, "AWS_SECRET_ACCESS_KEY": ""}, bt.CredentialsError),
]))
def test_not_configured(variables, error, environ):
    environ.update(variables)
    with pytest.raises(error):
        bt.TokenProvider(environ=environ)()


def test_expiration_of_the_environments_credentials_is_by_the_given_clock(environ, clock):
    environ.update(ENVIRONMENT, AWS_CREDENTIAL_EXPIRATION="1970-01-01T03:00:00Z")
    assert bt.TokenProvider(environ=environ, clock=clock)().expiration == at(3 * HOUR)


@pytest.mark.parametrize("old, new, says", cases([
    ("key", "AKIAPROFILE", "AKIAROTATED", ("AKIAROTATED", "ap-south-1")),
    ("secret alone", "= abc", "= def", ("AKIAPROFILE", "ap-south-1")),
    ("region", "ap-south-1", "ap-south-2", ("AKIAPROFILE", "ap-south-2")),
]))
def test_a_rotated_file_is_noticed(old, new, says, environ, home, clock):
    (home / ".aws").mkdir()
    file = home / ".aws" / "credentials"
    file.write_text(PROFILE)
    provider = bt.TokenProvider(profile="dev", environ=environ, clock=clock)
    first = provider()
    file.write_text(PROFILE.replace(old, new))
    clock.now += 299
    assert provider() is first
    clock.now += 1
    second = provider()
    said = bt.decode_token(second)
    assert (said["access_key_id"], said["region"]) == says
    assert second != first


# --- threads -------------------------------------------------------------------------------

@pytest.mark.parametrize("left", [900 - 1, 9, -HOUR], ids=["margin", "last moment", "after"])
def test_64_threads_look_up_once(left, clock):
    source = Source(LASTING, OTHER)
    provider = provider_of(source, clock)

    def ask_often():
        return {provider() for _ in range(50)}

    (first,), *others = Threads(ask_often, 64).join()
    assert (source.calls, others) == (1, [{first}] * 63)
    clock.now = START + 12 * HOUR - left
    tokens = set().union(*Threads(ask_often, 64).join())
    assert source.calls == 2
    second = provider()
    assert tokens <= ({first, second} if left > 10 else {second})


def test_one_that_comes_late_does_not_renew_again(clock):
    """It saw that the token is due, and takes the lead when another has finished already."""
    def stalling_clock():
        if threading.current_thread() is not threading.main_thread():
            asked.set()
            assert renewed.wait(5)
        return clock()

    asked, renewed = threading.Event(), threading.Event()
    source = Source(LASTING, OTHER)
    provider = provider_of(source, stalling_clock)
    provider()
    clock.now += 12 * HOUR - 100
    late = Threads(provider.token)
    assert asked.wait(5)
    second = provider()
    renewed.set()
    assert late.join() == [second]
    assert source.calls == 2


def test_valid_token_is_served_while_one_renews(clock):
    source = Source(LASTING, OTHER)
    provider = provider_of(source, clock)
    first = provider()
    clock.now = START + 12 * HOUR - 10
    source.gate.clear()
    leader = Threads(provider.token).until_waiting()
    assert [provider() for _ in range(10)] == [first] * 10
    assert Threads(provider.token, 8).join() == [first] * 8
    assert run(provider.async_token()) is first
    source.gate.set()
    second, = leader.join()
    assert second is provider()
    assert (second is first, source.calls) == (False, 2)


@pytest.mark.parametrize("answer", [OTHER, OwnError("nobody there")], ids=["token", "error"])
@pytest.mark.parametrize("has_old", [True, False], ids=["old token", "no token"])
def test_all_wait_for_one_outcome_when_no_token_is_left(has_old, answer, clock):
    source = Source(LASTING, answer) if has_old else Source(answer)
    provider = provider_of(source, clock)
    if has_old:
        provider()
        clock.now += 12 * HOUR - 9
    looked_up = source.calls
    source.gate.clear()
    threads = Threads(provider.token, 16).until_waiting()
    source.gate.set()
    outcomes = threads.join()
    assert source.calls == looked_up + 1
    if isinstance(answer, Exception):
        assert are_copies(outcomes, answer)
    else:
        assert set(map(id, outcomes)) == {id(provider())}


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), SystemExit(1)], ids=repr)
def test_an_interruption_is_the_leaders_alone(interruption, clock):
    source = Source(interruption, LASTING, is_open=False)
    provider = provider_of(source, clock)
    leader = Threads(provider.token).until_waiting()
    others = Threads(provider.token, 8).until_waiting()
    source.gate.set()
    assert leader.join() == [interruption]
    for error in others.join():
        assert type(error) is bt.BedrockTokenError
        assert "interrupted" in str(error)
    assert provider() == bt.get_token(LASTING, "us-east-1", now=at(START))


def test_an_interruption_while_a_valid_token_is_there(clock):
    source = Source(LASTING, KeyboardInterrupt(), OTHER)
    provider = provider_of(source, clock)
    provider()
    clock.now += 12 * HOUR - 100
    with pytest.raises(KeyboardInterrupt):
        provider()
    assert bt.decode_token(provider())["access_key_id"] == OTHER.access_key_id


# --- asyncio -------------------------------------------------------------------------------

def test_async_token_does_not_block_the_loop(clock):
    async def both():
        task = asyncio.ensure_future(provider.async_token())
        await until(source.entered)
        source.gate.set()
        return await task

    source = Source(LASTING, is_open=False)
    provider = provider_of(source, clock)
    assert run(both()) is provider()


@pytest.mark.parametrize("answer", [LASTING, OwnError("nobody there")], ids=["token", "error"])
def test_tasks_share_one_look_up(answer, clock):
    async def many():
        tasks = [asyncio.ensure_future(provider.async_token()) for _ in range(100)]
        await until(source.entered)
        source.gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    source = Source(answer, is_open=False)
    provider = provider_of(source, clock)
    outcomes = run(many())
    assert source.calls == 1
    if isinstance(answer, Exception):
        assert are_copies(outcomes, answer)
    else:
        assert set(map(id, outcomes)) == {id(provider())}


def test_loops_and_threads_share_one_look_up(clock):
    async def tasks(waiting):
        asked = [asyncio.ensure_future(provider.async_token()) for _ in range(10)]
        await asyncio.sleep(0)  # now each of them waits
        waiting.wait(5)
        return await asyncio.gather(*asked)

    source = Source(LASTING, is_open=False)
    provider = provider_of(source, clock)
    waiting = threading.Barrier(4)
    loops = Threads(lambda: run(tasks(waiting)), 3)
    waiting.wait(5)
    threads = Threads(provider.token, 8).until_waiting()
    source.gate.set()
    tokens = [*threads.join(), *(token for each in loops.join() for token in each)]
    assert source.calls == 1
    assert len(tokens) == 38
    assert len(set(map(id, tokens))) == 1


@pytest.mark.parametrize("cancelled", [0, 1, 2], ids=["leader", "second", "third"])
def test_a_cancelled_task_does_not_break_the_renewal(cancelled, clock):
    async def cancel():
        tasks = [asyncio.ensure_future(provider.async_token()) for _ in range(3)]
        await until(source.entered)
        tasks[cancelled].cancel()
        outcomes = await asyncio.gather(tasks[cancelled], return_exceptions=True)
        assert [type(error) for error in outcomes] == [asyncio.CancelledError]
        source.gate.set()
        del tasks[cancelled]
        return await asyncio.gather(*tasks)

    source = Source(LASTING, is_open=False)
    provider = provider_of(source, clock)
    assert run(cancel()) == [provider()] * 2
    assert source.calls == 1


def test_valid_token_is_served_to_tasks_while_one_renews(clock):
    async def ask():
        leader = asyncio.ensure_future(provider.async_token())
        await until(source.entered)
        others = await asyncio.gather(*(provider.async_token() for _ in range(8)))
        source.gate.set()
        return others, await leader

    source = Source(LASTING, OTHER)
    provider = provider_of(source, clock)
    first = provider()
    clock.now += 12 * HOUR - 100
    source.entered.clear()
    source.gate.clear()
    others, second = run(ask())
    assert others == [first] * 8
    assert second is provider()
    assert (second is first, source.calls) == (False, 2)


@pytest.mark.parametrize("order", ["thread first", "task first"])
def test_an_executor_full_of_threads_that_wait(order, clock):
    """Its one thread comes to the job that waits before it comes to the task's own."""
    async def both():
        loop = asyncio.get_running_loop()
        loop.set_default_executor(executor)
        busy = loop.run_in_executor(None, free.wait, 5)
        if order == "thread first":
            job = loop.run_in_executor(None, provider.token)
        task = asyncio.ensure_future(provider.async_token())
        await asyncio.sleep(0)  # the task leads the renewal, and nobody does it yet
        if order == "task first":
            job = loop.run_in_executor(None, provider.token)
        free.set()
        assert await busy
        return await asyncio.gather(task, job)

    free = threading.Event()
    source = Source(LASTING)
    provider = provider_of(source, clock)
    with ThreadPoolExecutor(1) as executor:
        assert run(both()) == [provider()] * 2
    assert source.calls == 1


def test_after_the_executor_was_shut_down_nobody_hangs(clock):
    """asyncio then refuses to start threads; what it says reaches each task that needs one."""
    async def ask():
        await asyncio.get_running_loop().shutdown_default_executor()
        asked = (asyncio.wait_for(provider.async_token(), 2) for _ in range(3))
        return await asyncio.gather(*asked, return_exceptions=True)

    provider = provider_of(Source(LASTING), clock)
    assert [type(outcome) for outcome in run(ask())] == [RuntimeError] * 3
    assert Threads(provider.token).join() == [run(provider.async_token())]


def test_a_job_that_was_dropped_leaves_nobody_waiting(clock):
    """A loop that is torn down drops the jobs that have not begun; another loop goes on."""
    async def lead():
        loop = asyncio.get_running_loop()
        loop.set_default_executor(executor)
        busy = loop.run_in_executor(None, free.wait, 5)
        task = asyncio.ensure_future(provider.async_token())
        await asyncio.sleep(0)
        executor.shutdown(wait=False, cancel_futures=True)
        task.cancel()
        free.set()
        await asyncio.gather(task, busy, return_exceptions=True)

    free = threading.Event()
    executor = ThreadPoolExecutor(1)
    provider = provider_of(Source(LASTING), clock)
    run(lead())
    assert run(provider.async_token()) is provider()


def test_a_loop_that_is_closed_while_it_waits_disturbs_nobody(clock, caplog):
    source = Source(LASTING, is_open=False)
    provider = provider_of(source, clock)
    leader = Threads(provider.token).until_waiting()
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *ignored: None)  # would tell of a task that never ends
    task = loop.create_task(provider.async_token())
    loop.run_until_complete(asyncio.sleep(0))  # now the task waits
    loop.close()
    source.gate.set()
    assert leader.join() == [provider()]
    assert not task.done()
    assert [record for record in caplog.records if record.name == "concurrent.futures"] == []


# --- fork, copies, pickle ------------------------------------------------------------------

@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("left", [None, 100, 9], ids=["no token", "margin", "last moment"])
def test_fork_during_a_renewal(left, clock):
    parent = os.getpid()
    source = Source(LASTING)
    provider = provider_of(lambda: source() if os.getpid() == parent else OTHER, clock)
    if left:
        provider()
        clock.now += 12 * HOUR - left
    source.gate.clear()
    thread = Threads(provider.token).until_waiting()
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            signal.alarm(5)  # ends a child that hangs
            os.write(writer, provider().encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        token = pipe.read()
    os.waitpid(child, 0)
    source.gate.set()
    assert token == bt.get_token(OTHER, "us-east-1", now=at(clock.now))
    assert thread.join() == [provider()]


def look_up():
    return LASTING


COPIES = cases([
    ("copy", copy.copy),
    ("deepcopy", copy.deepcopy),
    *((f"pickle {number}", lambda provider, number=number: pickle.loads(
        pickle.dumps(provider, number))) for number in range(2, pickle.HIGHEST_PROTOCOL + 1)),
])


@pytest.mark.parametrize("duplicate", COPIES)
@pytest.mark.parametrize("credentials", [look_up, LASTING, None], ids=["source", "given", "chain"])
def test_copies(credentials, duplicate, clock, environ):
    environ.update(ENVIRONMENT)
    provider = bt.TokenProvider(credentials, None, HOUR, environ=environ, clock=clock)
    before = duplicate(provider)
    token = provider()
    after = duplicate(provider)
    assert token == before() == after()
    assert token is not after()
    assert token.expiration == after().expiration


def test_a_pickle_holds_no_token(clock):
    provider = provider_of(look_up, clock)
    token = provider()
    for text in (token, SECRET):
        assert text.encode() not in pickle.dumps(provider)


def test_a_copy_made_during_a_renewal(clock):
    source = Source(LASTING, is_open=False)
    provider = provider_of(source, clock)
    thread = Threads(provider.token).until_waiting()
    held, source.gate = source.gate, threading.Event()
    source.gate.set()
    token = copy.copy(provider)()
    assert source.calls == 2
    held.set()
    assert thread.join() == [token]
