"""Turns at submitting: bounded in all and by key, and large bodies one after another."""

import asyncio

from solver_service.gateway.turns import LARGE_BYTES, MOST, MOST_PER_KEY, Turns


def test_a_key_that_fills_its_line_leaves_turns_for_others() -> None:
    """However many submissions of one key wait, another key's comes through; large ones go one by one."""

    async def scenario() -> tuple[int, int, bool]:
        turns, hold = Turns(), asyncio.Event()
        at_once = {"small": 0, "large": 0}

        async def submit(owner: str, size: int, kind: str) -> None:
            async with turns.turn(owner, size):
                at_once[kind] += 1
                await hold.wait()

        calls = [asyncio.ensure_future(submit("greedy", 10, "small")) for _ in range(10 * MOST)]
        calls += [asyncio.ensure_future(submit(f"big-{n}", LARGE_BYTES, "large")) for n in range(5)]
        await asyncio.sleep(0.01)
        async with asyncio.timeout(5), turns.turn("modest", 10):
            came_through = True
        most = dict(at_once)
        hold.set()
        await asyncio.gather(*calls)
        assert not turns._keys
        return most["small"], most["large"], came_through

    assert asyncio.run(scenario()) == (MOST_PER_KEY, 1, True)
