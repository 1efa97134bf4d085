import asyncio

import pytest

from resnext.serving.admission import BodyBudget, DecodeLoad, PixelBudget, check_wait
from resnext.serving.limits import Limits
from resnext.serving.problems import ProblemError


def test_decoding_has_a_wait_of_its_own():
    load = DecodeLoad(threads=2)
    assert load.predict_wait() == 0
    load.record(0.5)
    load.waiting = 8
    assert load.predict_wait() == pytest.approx(2)
    for _ in range(100):
        load.record(0.1)
    assert load.predict_wait() == pytest.approx(0.4, rel=0.01)


def test_a_wait_up_to_the_limit_is_accepted():
    check_wait(2.0, Limits(max_wait=2.0))
    with pytest.raises(ProblemError) as caught:
        check_wait(2.01, Limits(max_wait=2.0))
    assert (caught.value.status, caught.value.headers["Retry-After"]) == (429, "3")


def test_bytes_are_given_back_whatever_happens():
    budget = BodyBudget(Limits(body_bytes=10, total_body_bytes=15))
    with budget.open_account() as first:
        first.add(10)
        with pytest.raises(ProblemError, match="larger than"), budget.open_account() as second:
            second.add(4)
            assert budget.used == 14
            second.add(7)
        with pytest.raises(ProblemError, match="busy"), budget.open_account() as third:
            third.add(6)
        assert budget.used == 10
    assert budget.used == 0


async def hold(budget: PixelBudget, pixels: int, name: str, log: list[str], go: asyncio.Event) -> None:
    async with budget.reserve(pixels):
        log.append(name)
        await go.wait()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_pixels_are_reserved_in_order_and_large_pictures_one_at_a_time():
    async def run() -> None:
        budget, log, go = PixelBudget(Limits(total_pixels=100, large_pixels=50)), [], asyncio.Event()
        names = [("large 1", 60), ("large 2", 60), ("a", 30), ("b", 30), ("c", 5)]
        tasks = [asyncio.create_task(hold(budget, pixels, name, log, go)) for name, pixels in names]
        await settle()
        assert log == ["large 1", "a"]  # b has no room, and c does not overtake it
        assert budget.used == 90
        go.set()
        await asyncio.gather(*tasks)
        assert log == ["large 1", "a", "b", "c", "large 2"]
        assert budget.used == 0

    asyncio.run(run())


def test_who_gives_up_waiting_makes_room():
    async def run() -> None:
        budget, log, go = PixelBudget(Limits(total_pixels=100, large_pixels=200)), [], asyncio.Event()
        first = asyncio.create_task(hold(budget, 90, "first", log, go))
        await settle()
        second = asyncio.create_task(hold(budget, 50, "second", log, go))
        third = asyncio.create_task(hold(budget, 10, "third", log, go))
        await settle()
        second.cancel()
        await settle()
        assert log == ["first", "third"]
        first.cancel()
        third.cancel()
        await settle()
        assert budget.used == 0

    asyncio.run(run())


def test_who_gives_up_when_its_turn_comes_gives_its_pixels_back():
    async def run() -> None:
        budget, log, go = PixelBudget(Limits(total_pixels=100, large_pixels=200)), [], asyncio.Event()
        first = asyncio.create_task(hold(budget, 90, "first", log, go))
        await settle()
        second = asyncio.create_task(hold(budget, 50, "second", log, go))
        await settle()
        go.set()
        await asyncio.sleep(0)  # first ends, which gives second its turn ...
        second.cancel()  # ... before it could take it
        await asyncio.gather(first, second, return_exceptions=True)
        assert budget.used == 0

    asyncio.run(run())


def test_a_picture_larger_than_the_whole_budget_is_decoded_alone():
    async def run() -> None:
        budget, log, go = PixelBudget(Limits(total_pixels=10, large_pixels=200)), [], asyncio.Event()
        go.set()
        await asyncio.gather(*(hold(budget, 50, str(n), log, go) for n in range(3)))
        assert log == ["0", "1", "2"]

    asyncio.run(run())
