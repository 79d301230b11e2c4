"""The process: handshake, health, logs and end, as docs/plugins/protocol.md has them."""

import asyncio
import json
import logging
import os
import signal
import socket
import stat
import sys
import traceback

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tagstore.backend.v1 import backend_service_pb2_grpc as rpc

from plugin.service import MAX_MESSAGE, NAME, VERSION, Service

_COOKIE = ("TAGSTORE_PLUGIN_COOKIE", "4f0c3b1e-backend")
_PROTOCOL = 1
_DRAIN, _CLOSE = 1.0, 0.5  # seconds that calls get to finish, and the store
_DRAIN_ALONE, _CLOSE_ALONE = 10.0, 5.0  # the same where no host waits
_MAX_PATH = 107 if sys.platform == "linux" else 103
_LEVELS = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warn"}

log = logging.getLogger("plugin")


class Lines(logging.Formatter):
    """One JSON object for each message: the form that the host reads."""

    def format(self, record):
        line = {"@level": _LEVELS.get(record.levelno, "error"), "@message": record.getMessage(), **getattr(record, "fields", {})}
        if record.exc_info:
            line["trace"] = "".join(traceback.format_exception(*record.exc_info))[-16384:]
        return json.dumps(line)


def main():
    """Runs the plugin and returns its exit code."""
    parent = os.getppid()  # before anything can have happened to it
    os.umask(0o077)
    launched = os.environ.get(_COOKIE[0]) == _COOKIE[1]
    alone = "" if launched else os.environ.get("TAGSTORE_PLUGIN_SOCKET", "")
    if not launched and not alone:
        program = os.path.basename(sys.argv[0])
        print(f"{program} is the tagstore storage plugin {NAME!r}, version {VERSION} (plugin protocol {_PROTOCOL}).\n"
              "It is not run by hand: name it as a plugin in the manifest of the configuration service,\n"
              "or set TAGSTORE_PLUGIN_SOCKET to the path of a socket to serve on.", file=sys.stderr)
        return 2
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    problem = unfit(alone)
    if problem:
        log.error("the plugin can not start: %s", problem)
        return 1
    path = alone or os.path.join(os.environ["PLUGIN_UNIX_SOCKET_DIR"], "plugin.sock")
    try:
        return asyncio.run(serve(path, parent, bool(alone)))
    except Exception:
        log.exception("the plugin failed")
        return 1


def unfit(alone):
    """Why the plugin can not serve as it is asked to, or None."""
    if os.environ.get("PLUGIN_CLIENT_CERT"):
        return "it does not speak mutual TLS: leave mtls out of the manifest"
    if alone:
        return occupied(alone) if os.path.isabs(alone) else "TAGSTORE_PLUGIN_SOCKET is not an absolute path"
    if not os.environ.get("PLUGIN_UNIX_SOCKET_DIR"):
        return "PLUGIN_UNIX_SOCKET_DIR is not set"
    return None


def occupied(path):
    """Takes away the socket of a process that is dead; says why the path can not be had otherwise."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return "there is something else than a socket at TAGSTORE_PLUGIN_SOCKET"
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(1)
            s.connect(path)
        return "another process listens at TAGSTORE_PLUGIN_SOCKET"
    except FileNotFoundError:
        return None
    except ConnectionRefusedError:
        os.unlink(path)
        return None
    except OSError as e:
        return f"TAGSTORE_PLUGIN_SOCKET can not be used: {e.strerror or 'nobody answers there'}"


async def serve(path, parent, alone):
    """Serves on the socket until it is told to end."""
    if len(os.fsencode(path)) > _MAX_PATH:
        log.error("the path of the socket has %d bytes, the system's limit is %d", len(os.fsencode(path)), _MAX_PATH)
        return 1
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, told.set)
    if alone:
        loop.add_signal_handler(signal.SIGINT, told.set)
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    service = Service()
    # Watches are calls too, and wait for nobody, so nothing bounds how many there are.
    server = grpc.aio.server(options=[
        ("grpc.max_receive_message_length", MAX_MESSAGE), ("grpc.max_send_message_length", MAX_MESSAGE),
        ("grpc.max_metadata_size", 64 << 10), ("grpc.so_reuseport", 0)])
    rpc.add_BackendServiceServicer_to_server(service, server)
    checks = health.aio.HealthServicer()
    await checks.set("plugin", health_pb2.HealthCheckResponse.SERVING)
    await checks.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    server.add_generic_rpc_handlers((controller(told),))
    server.add_insecure_port("unix:" + path)
    await server.start()
    orphan = None
    if not alone:
        offered = os.environ.get("PLUGIN_PROTOCOL_VERSIONS", "")
        if str(_PROTOCOL) not in offered.split(","):
            # The line has room for one: the host refuses it, and quotes this.
            log.error("no common version of the plugin protocol: this plugin speaks %d, its host %s", _PROTOCOL, offered)
        print(f"1|{_PROTOCOL}|unix|{path}|grpc|", flush=True)
        orphan = asyncio.create_task(end_with(parent))
    log.info("the plugin serves")

    await told.wait()
    service.stop()
    await server.stop(_DRAIN_ALONE if alone else _DRAIN)
    if orphan:
        orphan.cancel()
    try:
        await asyncio.wait_for(service.close(), _CLOSE_ALONE if alone else _CLOSE)
    except TimeoutError:
        log.error("the store did not close in time")
        os._exit(1)  # its thread would keep the process
    finally:
        if os.path.exists(path):
            os.unlink(path)
    return 0


def controller(told):
    """plugin.GRPCController, whose messages have no fields: their bytes are none."""

    async def shutdown(_request, _context):
        told.set()
        return b""

    return grpc.method_handlers_generic_handler("plugin.GRPCController", {
        "Shutdown": grpc.unary_unary_rpc_method_handler(
            shutdown, request_deserializer=bytes, response_serializer=bytes)})


async def end_with(parent):
    """Ends the process when its host is gone, whoever its parent is then."""
    while os.getppid() == parent:
        await asyncio.sleep(1)
    os._exit(1)
