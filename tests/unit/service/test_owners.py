"""API keys and the door: what is kept of a token, who may come in without one, and how guesses are counted."""

import pytest

from solver_service.errors import StoreUnavailableError
from solver_service.gateway.door import Door, Failures
from solver_service.rules.owners import Scope, create_key, key_id, owner_of


def test_nothing_that_is_kept_of_a_key_opens() -> None:
    """The stored record holds neither the token nor its secret part; it recognises the token and no other."""
    key, token = create_key("alice", [Scope.SUBMIT], now=1.0)
    other, stranger = create_key("bob", [Scope.SUBMIT], now=1.0)
    assert token.split("_", 2)[2] not in key.model_dump_json()
    assert key_id(token) == key.id
    assert key.opens_with(token)
    assert not key.opens_with(stranger)
    assert not key.opens_with(token[:-1])
    assert key.owner == owner_of(token) != other.owner


@pytest.mark.parametrize("token", ["", "gds_", "gds_zz_x", "gds_0123456789ab_" + "a" * 42, "secret", "gds_ü"])
def test_what_cannot_be_a_token_has_no_id(token: str) -> None:
    """Text of another form is not looked up at all."""
    assert key_id(token) is None


def test_a_key_may_act_for_another_owner() -> None:
    """A replacement sees what the key before it made."""
    first, _ = create_key("old", [Scope.SUBMIT], now=1.0)
    second, _ = create_key("new", [Scope.SUBMIT], now=2.0, owner=first.owner)
    assert second.owner == first.owner


def test_a_keyless_door_shuts_for_good_with_the_first_key() -> None:
    """Once Redis has said that keys are in use it is not asked again; elsewhere it is never asked."""
    answers = [True]
    door = Door(may_be_keyless=True, keys_in_use=answers.pop)
    assert not door.keyless()
    assert not door.keyless()

    def unreachable() -> bool:
        raise StoreUnavailableError("away")

    assert not Door(may_be_keyless=False, keys_in_use=unreachable).keyless()
    with pytest.raises(StoreUnavailableError):
        Door(may_be_keyless=True, keys_in_use=unreachable).keyless()


def test_failures_are_counted_by_address_and_forgotten_after_a_minute() -> None:
    """The third wrong key makes an address wait; another one does not; a whole IPv6 network counts as one."""
    now = [1000.0]
    failures = Failures(3, clock=lambda: now[0])
    for host in range(3):
        assert failures.wait_s("2001:db8::1") == 0
        assert failures.note(f"2001:db8::{host}") == (host == 2)
    assert failures.wait_s("2001:db8::99") == 60
    assert failures.wait_s("2001:db8:0:1::1") == 0
    assert failures.wait_s("10.0.0.1") == 0
    now[0] += 60.1
    assert failures.wait_s("2001:db8::1") == 0
