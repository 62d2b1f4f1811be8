# SPDX-FileCopyrightText: The ihsm authors
# SPDX-License-Identifier: Apache-2.0
"""Control sockets, one beside each function's socket: JSON lines as `ihsm_abi.control` declares them.

All of them are served from one thread by coroutines, so that a command that waits holds up its own connection alone. A
client that goes away, or ends its direction of the connection, ends the wait of the command that it has not got the
answer to.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import selectors
import socket
import threading
from collections.abc import Awaitable, Callable, Container, Mapping
from typing import Any, Final, TypeVar

from ihsm_abi import logs
from ihsm_abi.control import (
    MAX_LINE_BYTES,
    ControlAnswer,
    ControlErrorCode,
    ControlProtocolError,
    ControlRefusal,
    ControlRequest,
)
from ihsm_device.client_process import EVERYBODY, peer
from ihsm_device.limits import BACKLOG, Limits

_log = logging.getLogger(__name__)

T = TypeVar("T")
Result = dict[str, Any]


class StreamResult(dict[str, Any]):
    """A result after which the connection is a stream of bytes from the device, until the client ends it."""

    def __init__(self, result: Result, run: Callable[[asyncio.WriteTransport], Awaitable[None]]) -> None:
        """`run` writes the stream once the answer has been written, and is cancelled when the client has gone."""
        super().__init__(result)
        self.run = run


class FollowedResult(dict[str, Any]):
    """A result that something must not happen before: the answer has been written then, or its client has gone."""

    def __init__(self, result: Result, follow: Callable[[], object]) -> None:
        """`follow` is called then, once, on the thread of all connections."""
        super().__init__(result)
        self.follow = follow


Handler = Callable[[dict[str, Any]], Result | Awaitable[Result]]
"""Takes the arguments of a request, gives its result or what becomes it; ValueError for bad arguments.

It runs on the thread of all connections: what takes time is awaited.
"""
STOP_TIMEOUT_S: Final = 5.0


class Door:
    """A control socket, and how many come in."""

    def __init__(self, listener: socket.socket, handlers: Mapping[str, Handler], server: ControlServer) -> None:
        """Of `server`, which has the limits of all."""
        self.listener = listener
        self.handlers = handlers
        self.server = server
        self.connections = 0
        self._told = False

    def refusal(self) -> str | None:
        """Why there can be no connection more, None if there can."""
        limits = self.server.limits
        if limits is None:
            return None
        if self.connections >= limits.control_connections:
            return f"limit of control connections: a function has at most {limits.control_connections}"
        if self.server.connections >= limits.control_connections_of_all:
            return f"limit of control connections: all functions have at most {limits.control_connections_of_all}"
        return None

    def tell(self, refusal: str) -> None:
        """One line, until a connection is admitted again."""
        if not self._told:
            _log.warning("control connection refused: %s", refusal)
        self._told = True

    def enter(self) -> None:
        """A connection is admitted."""
        self.connections += 1
        self.server.connections += 1
        self._told = False

    def leave(self) -> None:
        """One that was admitted has gone."""
        self.connections -= 1
        self.server.connections -= 1


class ControlServer:
    """Serves every control socket of the process from one thread."""

    def __init__(self, uids: Container[int] = EVERYBODY, limits: Limits | None = None) -> None:
        """No socket is served before `start`. Clients are of one of the users `uids`."""
        self.limits = limits
        self.connections = 0
        """Of all sockets; changed by the thread."""
        self._uids = uids
        self._doors: list[Door] = []
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._started = threading.Event()
        self._failure: Exception | None = None
        """Why the thread served nothing."""
        self._stop: Callable[[], object] = lambda: None

    def add(self, listener: socket.socket, handlers: Mapping[str, Handler]) -> Door:
        """Answer requests of a bound and listening socket with `handlers`, by command name; before `start`."""
        door = Door(listener, handlers, self)
        self._doors.append(door)
        return door

    def start(self) -> None:
        """Start the thread; returns when every socket is served.

        Raises:
            OSError, RuntimeError: the system gives no more descriptors or threads.
        """
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Close every connection and socket and end the thread, if it was started."""
        if self._thread.ident is not None:
            self._stop()
            self._thread.join(STOP_TIMEOUT_S)
        for door in self._doors:
            door.listener.close()

    def _run(self) -> None:
        try:
            _require_descriptors()
            asyncio.run(self._serve())
        except Exception as error:
            if self._started.is_set():
                raise
            self._failure = error
            self._started.set()

    async def _serve(self) -> None:
        """Connections still open at the end are cancelled by `asyncio.run`."""
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._stop = lambda: loop.call_soon_threadsafe(stopped.set)
        servers = [
            await loop.create_unix_server(
                functools.partial(_Connection, door, self._uids), sock=door.listener, backlog=BACKLOG
            )
            for door in self._doors
        ]
        self._started.set()
        await stopped.wait()
        for server in servers:
            server.close()


def _require_descriptors() -> None:
    """Raise OSError where an event loop would fail half-made, and say so on stderr when it is collected."""
    with selectors.DefaultSelector():
        for end in socket.socketpair():
            end.close()


class _Connection(asyncio.StreamReaderProtocol):
    """A client, whose requests are answered in order until it ends or sends a line beyond the limit.

    What it has sent and not been answered goes with it at once, for nothing here leads back to itself: the collector
    of cycles counts objects, not bytes, and would let some hundred connections of 128 KiB each come together.
    """

    def __init__(self, door: Door, uids: Container[int]) -> None:
        self._door = door
        self._uids = uids
        self._inside = False
        self._gone = asyncio.get_running_loop().create_future()
        """Done as soon as the client is seen to send no more, however many requests are still unanswered."""
        serve = functools.partial(_serve, door.handlers, self._gone)
        super().__init__(asyncio.StreamReader(limit=MAX_LINE_BYTES), serve)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client; one of a user who may not use the device, and one too many, are told so and hung up on."""
        assert isinstance(transport, asyncio.Transport)
        _, uid = peer(transport.get_extra_info("socket"))
        if uid not in self._uids:
            refusal = f"user {uid} may not use the device"
            _log.warning("control connection refused: %s", refusal)
            _turn_away(transport, ControlErrorCode.NOT_ALLOWED, refusal)
        elif (full := self._door.refusal()) is not None:
            self._door.tell(full)
            _turn_away(transport, ControlErrorCode.TOO_MANY_CONNECTIONS, full)
        else:
            self._inside = True
            self._door.enter()
            super().connection_made(transport)

    def eof_received(self) -> bool:
        """The client has closed, or sends no more."""
        self._end()
        return bool(super().eof_received())

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is broken, or closed by this side."""
        self._end()
        if self._inside:
            self._inside = False
            self._door.leave()
        super().connection_lost(_without_frames(error))

    def _end(self) -> None:
        if not self._gone.done():
            self._gone.set_result(None)


def _turn_away(transport: asyncio.Transport, code: ControlErrorCode, why: str) -> None:
    """Tell a client that nobody has heard yet, and end the connection."""
    transport.write(ControlAnswer(error_code=code, message=why).encode())
    transport.abort()  # what can be written at once has been


async def _serve(
    handlers: Mapping[str, Handler],
    gone: asyncio.Future[Any],
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    """Answer one client's requests; `gone` as in `_Connection`."""
    waited = functools.partial(_unless_gone, gone)
    try:
        while line := await reader.readline():
            answered = await answer(line, handlers, waited)
            writer.write(answered.encode())
            if isinstance(answered.result, FollowedResult):
                answered.result.follow()
            await writer.drain()
            if isinstance(answered.result, StreamResult):
                await waited(answered.result.run(writer.transport))
                break
    except ValueError:
        text = f"line exceeds {MAX_LINE_BYTES} bytes"
        writer.write(ControlAnswer(error_code=ControlErrorCode.BAD_REQUEST, message=text).encode())
    except ConnectionError as error:
        _without_frames(error)
    finally:
        writer.close()


def _without_frames(error: Exception | None) -> Exception | None:
    """An error that the reader keeps, without the frames that it came through, which have the reader."""
    if error is not None:
        error.__traceback__ = error.__context__ = None
    return error


async def _unless_gone(gone: asyncio.Future[Any], awaitable: Awaitable[T]) -> T:
    """What is awaited, if it is there without waiting or the client stays; ConnectionAbortedError."""
    task = asyncio.ensure_future(awaitable)
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ConnectionAbortedError
        return task.result()
    finally:
        task.cancel()


async def answer(
    line: bytes, handlers: Mapping[str, Handler], waited: Callable[[Awaitable[Result]], Awaitable[Result]]
) -> ControlAnswer:
    """The answer to one request line; `waited` awaits for a handler.

    Raises:
        ConnectionAbortedError: from `waited`: nobody is left to be answered.
    """
    try:
        request = ControlRequest.decode(line)
    except ControlProtocolError as error:
        return ControlAnswer(error_code=ControlErrorCode.BAD_REQUEST, message=str(error))
    handler = handlers.get(request.command)
    if handler is None:
        text = f"unknown command {request.command!r}; known: {', '.join(sorted(handlers))}"
        return ControlAnswer(error_code=ControlErrorCode.UNKNOWN_COMMAND, message=text, id=request.id)
    try:
        result = handler(request.arguments)
        if not isinstance(result, dict):
            result = await waited(result)
        return ControlAnswer(result=result, id=request.id)
    except ConnectionAbortedError:
        raise
    except ControlRefusal as refusal:
        return ControlAnswer(error_code=refusal.code, message=str(refusal), id=request.id)
    except ValueError as error:
        return ControlAnswer(error_code=ControlErrorCode.BAD_REQUEST, message=str(error), id=request.id)
    except Exception:
        logs.failure(_log, "control command %s failed", request.command)
        return ControlAnswer(
            error_code=ControlErrorCode.FAILED, message="the command failed; the device's log says why", id=request.id
        )
