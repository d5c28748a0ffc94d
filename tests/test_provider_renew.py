"""TokenProvider.renew, for whoever was refused; and what an interruption at any point leaves."""

import asyncio
import concurrent.futures
import copy
import pickle
import sys
import threading
import types
from datetime import datetime, timedelta, timezone

import pytest

import bedrock_token as bt
from tests.helpers import KEYS, KEY_ID, SECRET, Clock, Source, cases

START = 1_750_000_000.0
HOUR = 3600
LONG = 30  # seconds that a thread may take before it counts as hanging


def keys(name, end=None):
    moment = end and datetime.fromtimestamp(end, timezone.utc)
    return bt.Credentials(f"ASIA{name}", SECRET, "session", moment, name)


FIRST, SECOND, THIRD = (keys(name, START + 1000 * HOUR) for name in ("FIRST", "SECOND", "THIRD"))


def provider_of(source, clock=None, expires_in=12 * HOUR):
    return bt.TokenProvider(source, "us-east-1", expires_in, clock=clock or Clock(START))


def key_id(token):
    return bt.decode_token(token)["access_key_id"]


def in_thread(function):
    """What it returns or raises, or a failure if that takes too long."""
    future = concurrent.futures.Future()

    def run():
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def within_bounds(function):
    return in_thread(function).result(LONG)


# --- what it does -------------------------------------------------------------------------

@pytest.mark.parametrize("renew", [
    lambda provider: provider.renew(),
    lambda provider: in_thread(provider.renew).result(LONG),
], ids=["here", "in a thread"])
def test_looks_up_now_and_mints_anew(renew):
    source = Source(FIRST, SECOND)
    provider = provider_of(source)
    assert key_id(provider()) == "ASIAFIRST"
    token = renew(provider)
    assert isinstance(token, bt.Token)
    assert (key_id(token), token.region, source.calls) == ("ASIASECOND", "us-east-1", 2)
    assert provider() is provider.token() is token
    assert source.calls == 2


def test_as_the_first_call():
    source = Source(FIRST)
    provider = provider_of(source)
    token = provider.renew()
    assert provider() is token
    assert source.calls == 1


def test_mints_anew_from_the_same_credentials():
    """A token is revoked with the sessions that began before a moment: an older one does not do."""
    clock, source = Clock(START), Source(FIRST)
    provider = provider_of(source, clock)
    old = provider()
    clock.now += 1
    new = provider.renew()
    assert new != old
    assert new.expiration - old.expiration == timedelta(seconds=1)
    assert provider() is new


def test_every_renewal_looks_up():
    source = Source(FIRST, SECOND, THIRD)
    provider = provider_of(source)
    assert [key_id(provider.renew()) for _ in range(3)] == ["ASIAFIRST", "ASIASECOND", "ASIATHIRD"]


def test_given_credentials_are_minted_anew():
    clock = Clock(START)
    provider = bt.TokenProvider(bt.Credentials("AKIAGIVEN", SECRET), "us-east-1", clock=clock)
    old = provider()
    clock.now += 60
    assert provider.renew().expiration - old.expiration == timedelta(minutes=1)


def test_of_the_default_chain(environ):
    """The environment as it is now."""
    variables = {**environ, **KEYS, "AWS_REGION": "us-east-1"}
    provider = bt.TokenProvider(environ=variables, clock=Clock(START))
    assert key_id(provider()) == KEY_ID
    variables.update(AWS_ACCESS_KEY_ID="AKIANEW", AWS_REGION="eu-west-1")
    assert key_id(provider()) == KEY_ID
    token = provider.renew()
    assert (key_id(token), token.region) == ("AKIANEW", "eu-west-1")


@pytest.mark.parametrize("later", [0, 10, 29])
def test_looks_up_in_the_pause_after_a_failure(later):
    """Who was refused cannot go on with the token that is still served."""
    clock = Clock(START)
    source = Source(keys("FIRST", START + HOUR), bt.CredentialsError("gone"), SECOND)
    provider = provider_of(source, clock)
    old = provider()
    clock.now += HOUR - 60
    assert provider() is old
    clock.now += later
    assert provider() is old
    assert key_id(provider.renew()) == "ASIASECOND"


# --- when it fails ------------------------------------------------------------------------

class OwnError(Exception):
    pass


ERRORS = [bt.CredentialsError("the session has ended"), OwnError("no vault"), StopIteration("odd")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_failure_propagates(error):
    """Though the old token has time left: it was refused."""
    source = Source(FIRST, error, SECOND)
    provider = provider_of(source)
    provider()
    with pytest.raises(type(error), match=str(error)):
        provider.renew()
    assert source.calls == 2
    assert key_id(provider.renew()) == "ASIASECOND"


def test_after_a_failure_the_old_token_is_served():
    """It may have been refused for something that passes; who asks without a complaint gets it."""
    source = Source(FIRST, bt.CredentialsError("gone"), SECOND)
    provider = provider_of(source)
    old = provider()
    with pytest.raises(bt.CredentialsError):
        provider.renew()
    assert provider() in (old, provider.renew())


def test_expired_credentials():
    source = Source(FIRST, keys("OLD", START - 1))
    provider = provider_of(source)
    provider()
    with pytest.raises(bt.CredentialsError, match="expired"):
        provider.renew()


def test_failure_of_the_first_call():
    source = Source(bt.CredentialsError("gone"), FIRST)
    provider = provider_of(source)
    with pytest.raises(bt.CredentialsError, match="gone"):
        provider.renew()
    assert key_id(provider()) == "ASIAFIRST"


# --- several at once ----------------------------------------------------------------------

@pytest.mark.parametrize("answer", [SECOND, bt.CredentialsError("gone")], ids=["good", "error"])
def test_callers_at_the_same_time_share_one_look_up(answer):
    source = Source(FIRST, answer, THIRD)
    provider = provider_of(source)
    provider()
    source.entered.clear()
    source.gate.clear()
    leader = in_thread(provider.renew)
    assert source.entered.wait(LONG)
    arrived = threading.Semaphore(0)

    def follow():
        arrived.release()
        return provider.renew()

    followers = [in_thread(follow) for _ in range(20)]
    for _ in followers:
        assert arrived.acquire(timeout=LONG)
    wait_until_all_wait(followers)
    source.gate.set()
    if isinstance(answer, bt.Credentials):
        assert {key_id(each.result(LONG)) for each in (leader, *followers)} == {"ASIASECOND"}
        assert provider() is leader.result()
    else:
        errors = [each.exception(LONG) for each in (leader, *followers)]
        assert {type(error) for error in errors} == {bt.CredentialsError}
        assert len({id(error) for error in errors}) == len(errors), "each its own copy"
    assert source.calls == 2


def wait_until_all_wait(futures):
    """Until the threads that run `follow` have stood at the same instruction for a while."""
    before, unchanged = None, 0
    for _ in range(20_000):
        places = []
        for frame in sys._current_frames().values():
            place = id(frame), frame.f_lasti
            while frame and frame.f_code.co_name != "follow":
                frame = frame.f_back
            places += [place] if frame else []
        unchanged = unchanged + 1 if places == before else 0
        if unchanged == 50 and len(places) == len(futures):
            return
        before = places
        threading.Event().wait(0.001)
    raise AssertionError("they do not wait")


def test_with_a_look_up_that_is_under_way_already():
    """One that began before the refusal may have found what was refused; a renewal may share it."""
    source = Source(FIRST, SECOND, is_open=False)
    provider = provider_of(source)
    first = in_thread(provider)
    assert source.entered.wait(LONG)
    renewal = in_thread(provider.renew)
    source.gate.set()
    assert key_id(first.result(LONG)) in ("ASIAFIRST", "ASIASECOND")
    assert key_id(renewal.result(LONG)) in ("ASIAFIRST", "ASIASECOND")
    assert key_id(provider.renew()) == "ASIASECOND"


def test_others_go_on_with_the_old_token():
    source = Source(FIRST, SECOND)
    provider = provider_of(source)
    old = provider()
    source.entered.clear()
    source.gate.clear()
    renewal = in_thread(provider.renew)
    assert source.entered.wait(LONG)
    assert within_bounds(provider) is old
    source.gate.set()
    assert key_id(renewal.result(LONG)) == "ASIASECOND"
    assert key_id(provider()) == "ASIASECOND"


def test_with_tasks_of_asyncio():
    source = Source(FIRST, SECOND)
    provider = provider_of(source)
    provider()

    async def both():
        renewed = asyncio.get_running_loop().run_in_executor(None, provider.renew)
        await asyncio.wait_for(renewed, LONG)
        return await asyncio.wait_for(provider.async_token(), LONG)

    assert key_id(asyncio.run(both())) == "ASIASECOND"
    assert source.calls == 2


# --- a source that asks the provider it is the source of ----------------------------------

@pytest.mark.parametrize("inner", ["__call__", "token", "renew"])
@pytest.mark.parametrize("outer", ["__call__", "token", "renew"])
def test_a_source_that_calls_its_own_provider(outer, inner):
    """It would wait for itself."""
    def source():
        return getattr(provider, inner)()

    provider = provider_of(source)
    error = in_thread(getattr(provider, outer)).exception(LONG)
    assert isinstance(error, (bt.BedrockTokenError, RuntimeError))
    assert not isinstance(error, RecursionError)


def test_a_source_that_calls_its_own_provider_in_asyncio():
    def source():
        return provider()

    provider = provider_of(source)

    async def ask():
        with pytest.raises((bt.BedrockTokenError, RuntimeError)) as caught:
            await asyncio.wait_for(provider.async_token(), LONG)
        return caught.value

    assert not isinstance(asyncio.run(ask()), (RecursionError, asyncio.TimeoutError))


def test_a_provider_works_after_its_source_called_it():
    answers = [lambda: provider(), lambda: FIRST]

    def source():
        return answers.pop(0)()

    provider = provider_of(source)
    assert in_thread(provider).exception(LONG)
    assert key_id(within_bounds(provider)) == "ASIAFIRST"


def test_a_source_may_call_another_provider():
    inner = provider_of(Source(FIRST))

    def source():
        return keys(key_id(inner())[4:] + "OUTER", START + HOUR)

    assert key_id(within_bounds(provider_of(source))) == "ASIAFIRSTOUTER"


def test_a_source_that_calls_it_while_a_token_is_valid():
    """The token that is there is no deadlock."""
    clock, given = Clock(START), [FIRST]

    def source():
        if given:
            return given.pop()
        return keys("AFTER" + key_id(provider())[4:], START + 1000 * HOUR)

    provider = provider_of(source, clock)
    old = provider()
    clock.now += 12 * HOUR - 60
    assert in_thread(provider).result(LONG) in (old, provider())


# --- an exception out of nowhere, as a signal handler raises it ---------------------------

def code_of(value, found):
    """The code of functions, methods and what is defined inside them."""
    if isinstance(value, (staticmethod, classmethod, property)):
        value = getattr(value, "__func__", None) or value.fget
    code = getattr(value, "__code__", value)
    if isinstance(code, types.CodeType) and code not in found:
        found.add(code)
        for constant in code.co_consts:
            code_of(constant, found)
    return found


OWN_CODE = set()
for _name, _value in vars(bt.TokenProvider).items():
    if _name not in ("__init__", "__getstate__", "__setstate__"):
        code_of(_value, OWN_CODE)


class Interruption:
    """Raises KeyboardInterrupt at the N-th instruction of TokenProvider, or line of what it calls.

    A tracer does what a signal handler can: it runs between any two instructions.
    """

    def __init__(self, number, library=False):
        self.left = number
        self.files = {bt.__file__} if not library else {
            concurrent.futures._base.__file__, threading.__file__}
        self.is_own = not library

    def start(self, frame, event, argument):
        code = frame.f_code
        if code.co_filename not in self.files:
            return None
        if self.is_own and code in OWN_CODE:
            frame.f_trace_opcodes = True
            return self.at_instruction
        return self.at_line

    def at_instruction(self, frame, event, argument):
        if event == "opcode":
            self.count()
        return self.at_instruction

    def at_line(self, frame, event, argument):
        if event == "line":
            self.count()
        return self.at_line

    def count(self):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def interrupted(function, number, library):
    """Whether the function was interrupted before it was done."""
    interruption = Interruption(number, library)
    before = sys.gettrace()
    sys.settrace(interruption.start)
    try:
        function()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return interruption.left <= 0


@pytest.mark.parametrize("ask, library", cases([
    ("token", "token", False),
    ("renewal", "renew", False),
    ("token in the margin", "token in the margin", False),
    ("token, and others wait", "token, and others wait", False),
    ("token, in the library's code", "token", True),
    ("renewal, in the library's code", "renew", True),
]))
def test_interruption_at_any_point(ask, library):
    """Whatever point it strikes: nobody hangs, and the provider works."""
    points = 0
    for number in range(1, 20_000):
        clock, followers = Clock(START), []

        def source():
            if ask.endswith("others wait") and not followers:
                followers.append(in_thread(provider.token))
            return keys("FIRST", clock.now + HOUR)

        provider = provider_of(source, clock)
        if ask in ("renew", "token in the margin"):
            provider()
            clock.now += HOUR - 60
        function = provider.renew if ask == "renew" else provider.token
        if not interrupted(function, number, library):
            break
        points += 1

        where = f"interrupted at point {number}"
        for follower in followers:
            try:
                error = follower.exception(LONG)
            except concurrent.futures.TimeoutError:
                raise AssertionError(f"{where}: one that waits hangs") from None
            assert error is None or isinstance(error, bt.BedrockTokenError), where
        for again in (provider.token, provider.renew, provider.token):
            try:
                assert key_id(within_bounds(again)) == "ASIAFIRST", where
            except concurrent.futures.TimeoutError:
                raise AssertionError(f"{where}: the next call hangs") from None
        clock.now += 2 * HOUR
        assert provider.token().expiration.timestamp() > clock.now, where
    else:
        raise AssertionError("it never came to an end")
    assert library or points > 100


# --- copies -------------------------------------------------------------------------------

@pytest.mark.parametrize("duplicate", [
    copy.copy, copy.deepcopy,
    *(lambda provider, number=number: pickle.loads(pickle.dumps(provider, number))
      for number in range(2, pickle.HIGHEST_PROTOCOL + 1)),
])
def test_copies_renew_on_their_own(duplicate, environ):
    variables = {**environ, **KEYS, "AWS_REGION": "us-east-1"}
    provider = bt.TokenProvider(environ=variables)
    token = provider.renew()
    twin = duplicate(provider)
    assert key_id(within_bounds(twin.renew)) == KEY_ID
    assert key_id(within_bounds(twin)) == KEY_ID
    assert provider() is token


def test_a_pickle_made_during_a_renewal():
    """The one who does the work is not in the other process."""
    source = Source(FIRST, is_open=False)
    provider = bt.TokenProvider(look_up, "us-east-1", clock=Clock(START))
    LOOK_UPS[:] = [source]
    try:
        renewal = in_thread(provider.renew)
        assert source.entered.wait(LONG)
        text = pickle.dumps(provider)
        twin = pickle.loads(text)
        LOOK_UPS[:] = [Source(SECOND)]
        assert key_id(within_bounds(twin.renew)) == "ASIASECOND"
        source.gate.set()
        assert key_id(renewal.result(LONG)) == "ASIAFIRST"
    finally:
        source.gate.set()
    provider()
    for secret in (SECRET, str(provider())):
        assert secret.encode() not in pickle.dumps(provider)


LOOK_UPS = []


def look_up():
    return LOOK_UPS[0]()
