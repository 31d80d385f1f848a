"""The pipelined connection, scripts, and the sync client."""

import asyncio
import contextlib
import socket
import threading

import hiredis
import pytest
import redis

from saas.lib.valkey import Connection, Script, sync_client
from tests.waiting import until_async

TIMEOUT = 15.0


@pytest.fixture
def url(embedded) -> str:
    return embedded["LANES_URL"]


@contextlib.asynccontextmanager
async def connected(url: str, on_lost=None):
    connection = await Connection.connect(url, on_lost)
    yield connection
    connection.abort()
    await asyncio.sleep(0.01)


async def test_replies_come_in_order_and_an_error_is_a_reply_to_its_own_command(url):
    replies = []
    async with connected(url) as connection:
        for command in (("ECHO", "a"), ("NONSENSE",), ("ECHO", b"\x00\xff"), ("ECHO", 5)):
            connection.send(replies.append, *command)
        connection.send(None, "NONSENSE")
        assert await connection.call("PING") == b"PONG"

    assert (replies[0], replies[2], replies[3]) == (b"a", b"\x00\xff", b"5")
    assert isinstance(replies[1], hiredis.ReplyError)


async def test_a_callback_that_fails_takes_no_reply_from_the_others(url):
    failures, replies = [], []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(context["exception"]))
    async with connected(url) as connection:
        connection.send(lambda reply: 1 / 0, "PING")
        connection.send(replies.append, "PING")
        await until_async(lambda: replies)

    assert [type(failure) for failure in failures] == [ZeroDivisionError]


async def test_when_the_connection_is_lost_every_waiter_is_told_once_and_then_its_owner(url, lanes):
    told = []
    async with connected(url, lambda: told.append("lost")) as connection:
        own = await connection.call("CLIENT", "ID")
        for _ in range(3):
            connection.send(told.append, "BLPOP", "test:valkey:nothing", 0)
        lanes.execute_command("CLIENT", "KILL", "ID", own)
        await until_async(lambda: "lost" in told)
        assert not connection.is_open
        connection.send(told.append, "PING")
        await until_async(lambda: len(told) == 5)

    assert told[3] == "lost"
    assert all(isinstance(reply, ConnectionError) for reply in (*told[:3], told[4]))


async def test_a_cancelled_wait_does_not_disturb_the_order(url):
    async with connected(url) as connection:
        waiting = asyncio.create_task(connection.call("ECHO", "first"))
        await asyncio.sleep(0)
        waiting.cancel()

        assert await connection.call("ECHO", "second") == b"second"


async def test_no_server_is_one_connection_error(tmp_path):
    with pytest.raises(ConnectionError, match="no connection"):
        await Connection.connect(f"unix://{tmp_path}/nobody.sock")


async def test_a_refused_password_or_database_is_a_connection_error(url):
    for refused in (f"{url}?db=999", f"{url}?password=wrong"):
        with pytest.raises(ConnectionError, match="no connection"):
            await Connection.connect(refused)
    await asyncio.sleep(0.01)


async def test_a_server_that_accepts_and_is_silent_is_given_up(tmp_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "silent.sock"))
        server.listen()
        with pytest.raises(ConnectionError, match="timed out"):
            await Connection.connect(f"unix://{tmp_path}/silent.sock?db=1", timeout=0.1)
        await asyncio.sleep(0.01)


async def test_a_subscription_hears_that_it_listens_and_then_the_messages(url, lanes):
    heard = []
    async with connected(url) as connection:
        connection.subscribe(["test:valkey:a", "test:valkey:b"], lambda *what: heard.append(what))
        await until_async(lambda: len(heard) == 2)
        lanes.publish("test:valkey:b", b"\xff")
        await until_async(lambda: len(heard) == 3)

    assert heard == [(b"", b"test:valkey:a"), (b"", b"test:valkey:b"), (b"test:valkey:b", b"\xff")]


async def test_a_subscription_tells_when_all_that_was_published_was_heard(url, lanes):
    heard = []
    async with connected(url) as connection:
        connection.subscribe(["test:valkey:a"], lambda *what: heard.append(what))
        await until_async(lambda: heard)
        for number in range(3):
            lanes.publish("test:valkey:a", b"%d" % number)
            await connection.hear_all()
            assert heard[-1] == (b"test:valkey:a", b"%d" % number)


@pytest.fixture
def script(tmp_path) -> Script:
    (tmp_path / "first.lua").write_text("#!lua flags=allow-oom\nlocal function twice(n) return 2 * n end\n")
    (tmp_path / "second.lua").write_text("return {KEYS[1], twice(ARGV[1])}\n")
    return Script(tmp_path / "first.lua", tmp_path / "second.lua")


async def test_a_script_of_several_files_is_loaded_when_the_server_does_not_know_it(url, lanes, script):
    replies = []
    lanes.script_flush()
    async with connected(url) as connection:
        for number in (1, 2):
            script.run(connection, replies.append, ["key"], [number])
            await until_async(lambda number=number: len(replies) == number)
        script.run(connection, None, ["key"], ["not a number"])
        await connection.call("PING")
    assert replies == [[b"key", 2], [b"key", 4]]

    lanes.script_flush()
    assert script.run_sync(lanes, ["key"], [5]) == [b"key", 10]


def test_the_sync_client_waits_for_a_blocking_command_as_long_as_it_is_told(url):
    with sync_client(url, timeout=None) as client, sync_client(url, timeout=0.05) as hasty:
        waiting = threading.Thread(target=client.blpop, args=("test:valkey:pop", 5))
        waiting.start()
        with pytest.raises(redis.TimeoutError):
            hasty.blpop("test:valkey:other", 5)
        client.rpush("test:valkey:pop", "x")
        waiting.join()
        assert not client.exists("test:valkey:pop")
