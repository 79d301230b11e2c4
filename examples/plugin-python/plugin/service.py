"""The protocol's service, on the event loop; writes wait on a thread of their own."""

import asyncio
import concurrent.futures
import functools
import json
import logging
import sqlite3

import grpc
from tagstore.backend.v1 import backend_service_pb2 as pb
from tagstore.backend.v1 import backend_service_pb2_grpc as rpc

from plugin import options, request
from plugin.failure import Failure, of_sqlite
from plugin.store import open_store

NAME, VERSION, API_MINOR = "sqlite", "1.0.0", 1
MAX_MESSAGE = 9 << 20
_BATCH_BYTES = 3 << 20
_MAX_RESULT = MAX_MESSAGE - (1 << 10)
_WATCH_CHUNK = 64  # changes that are read at once
_POLL = 0.05  # seconds between two looks at what other processes wrote, while somebody watches

log = logging.getLogger("plugin")


def call(method):
    """Makes whatever goes wrong in a call an error of the protocol, and of that call alone."""
    op = NAME + "." + method.__name__
    writing = method.__name__ in ("Put", "Delete")

    def failure(r, e):
        if isinstance(e, sqlite3.Error):
            log.error("the store failed", extra={"fields": {"op": op, "sqlite": getattr(e, "sqlite_errorname", "")}})
            e = of_sqlite(e, writing) or e
        if not isinstance(e, Failure):
            log.error("a call failed", extra={"fields": {"op": op}}, exc_info=e)
            e = Failure("INTERNAL", "the plugin failed", hint="its log says where")
        return e.about(op, r.id.key if "id" in r.DESCRIPTOR.fields_by_name else "").status()

    async def refuse(context, status):
        await context.abort(status.code, status.details, status.trailing_metadata)

    if method.__name__ == "Watch":

        @functools.wraps(method)
        async def stream(self, r, context):
            try:
                await method(self, r, context)
            except Exception as e:  # whatever it is: one call must not cost the others
                await refuse(context, failure(r, e))

        return stream

    @functools.wraps(method)
    async def unary(self, r, context):
        try:
            return await method(self, r)
        except Exception as e:  # as above
            await refuse(context, failure(r, e))

    return unary


def entry(row, value=True):
    """The wire form of a version. An empty value is present, a tombstone's is not."""
    e = pb.Entry(
        id=pb.Id(tenant=row.tenant, service=row.service, key=row.key), content_type=row.content_type,
        version=row.version, revision=str(row.seq), updated_by=row.updated_by, message=row.message, deleted=row.deleted)
    e.updated_at.FromNanoseconds(row.updated_at)
    if value and row.value is not None:
        e.value = row.value
    return e


class Service(rpc.BackendServiceServicer):
    """BackendService on a Store."""

    def __init__(self):
        self._configuring = asyncio.Lock()
        self._options = None  # those that Configure succeeded with
        self._store = None
        # One thread: SQLite has one writer, and writes keep the order in which they came.
        self._writer = concurrent.futures.ThreadPoolExecutor(1, "writer")
        self._changed = asyncio.Event()  # replaced with every change
        self._watches = 0
        self._poller = None
        self._stopping = False

    @property
    def store(self):
        """The open store."""
        if self._store is None:
            raise Failure("FAILED_PRECONDITION", "the plugin is not configured")
        return self._store

    async def _write(self, f, *args):
        # A call that is cancelled while it waits for its turn is never made.
        return await asyncio.get_running_loop().run_in_executor(self._writer, f, *args)

    def _wake(self):
        self._changed.set()
        self._changed = asyncio.Event()

    def stop(self):
        """Ends the watches, which would not end by themselves."""
        self._stopping = True
        self._wake()

    async def close(self):
        """Closes the store behind the writes that were begun. No call may be running."""
        store, self._store = self._store, None
        if self._poller:
            self._poller.cancel()
        if store:
            await self._write(store.close)
        self._writer.shutdown()

    @call
    async def Describe(self, r):
        return pb.DescribeResponse(
            name=NAME, version=VERSION, api_minor=API_MINOR, options_schema=json.dumps(options.SCHEMA).encode(),
            capabilities=pb.Capabilities(batch=True, history=True, watch=True, ping=True, size=True),
            features=["reconfigure"])

    @call
    async def Configure(self, r):
        parsed, given = options.parse(r.options), options.canonical(r.options)
        async with self._configuring:
            if self._store is None:
                self._store = await self._write(open_store, parsed)
                self._options = given
            elif given != self._options:
                raise Failure("FAILED_PRECONDITION", "the plugin was configured before, with other options",
                              hint="each process has one set of options: restart it, or start another")
        return pb.ConfigureResponse()

    @call
    async def Get(self, r):
        return pb.GetResponse(entry=entry(self.store.get(request.identity(r.id), r.version)))

    @call
    async def BatchGet(self, r):
        store, answer, total = self.store, pb.BatchGetResponse(), 0
        for identity in [request.identity(i) for i in r.ids]:
            result = pb.BatchGetResult()
            try:
                result.entry.CopyFrom(entry(store.get(identity, 0)))
                if result.ByteSize() > _MAX_RESULT:
                    raise Failure("RESOURCE_EXHAUSTED", "the value is larger than a batch may be", hint="read it alone")
            except Failure as e:
                result.error.CopyFrom(e.about(NAME + ".Get", identity[2]).detail)
            total += result.ByteSize()
            if answer.results and total > _BATCH_BYTES:
                break
            answer.results.append(result)
        return answer

    @call
    async def List(self, r):
        scope, prefix = request.scope(r.tenant, r.service), request.key_prefix(r.key_prefix)
        size, seal = request.page_size(r.page_size), ("list", *scope, prefix)
        after = self.store.tokens.open(r.page_token, *seal) if r.page_token else ""
        rows, more = self.store.list(scope, prefix, after, size)
        return pb.ListResponse(entries=map(entry, rows),
                               next_page_token=self.store.tokens.seal(rows[-1].key, *seal) if more else "")

    @call
    async def History(self, r):
        identity = request.identity(r.id)
        size, seal = request.page_size(r.page_size), ("history", *identity)
        before = int(self.store.tokens.open(r.page_token, *seal)) if r.page_token else None
        rows, more = self.store.history(identity, before, size)
        return pb.HistoryResponse(entries=map(entry, rows),
                                  next_page_token=self.store.tokens.seal(str(rows[-1].version), *seal) if more else "")

    @call
    async def Put(self, r):
        expected = r.expected_version if r.HasField("expected_version") else None
        row = await self._write(self.store.put, request.identity(r.id), r.value, r.content_type, expected, r.updated_by, r.message)
        self._wake()
        return pb.PutResponse(entry=entry(row, value=False))

    @call
    async def Delete(self, r):
        expected = r.expected_version if r.HasField("expected_version") else None
        row = await self._write(self.store.delete, request.identity(r.id), expected, r.updated_by, r.message)
        self._wake()
        return pb.DeleteResponse(entry=entry(row))

    @call
    async def Watch(self, r, context):
        scope, prefix = request.scope(r.tenant, r.service), request.key_prefix(r.key_prefix)
        store, seal = self.store, ("watch", *scope, prefix)

        async def tell(kind, at, row=None):
            self._check_running()
            await context.write(pb.WatchResponse(
                kind=kind, entry=entry(row) if row else None, position=store.tokens.seal(str(at), *seal)))

        self._watches += 1
        self._poller = self._poller or asyncio.create_task(self._poll())
        try:
            if r.after:
                at, began = int(store.tokens.open(r.after, *seal)), store.newest()
            else:
                began, live = store.snapshot(scope, prefix)
                at = began
                for seq in live:
                    await tell(pb.EVENT_KIND_PUT, at, store.version(seq))
            synced = False
            while True:
                changed = self._changed  # taken before the look: what comes later sets it
                if not synced and at >= began:
                    await tell(pb.EVENT_KIND_SYNC, at)
                    synced = True
                self._check_running()
                rows, upto = store.changes(scope, prefix, at, _WATCH_CHUNK)
                for row in rows:
                    # What came after the resume point and before this watch stands before its sync.
                    if not synced and row.seq > began:
                        await tell(pb.EVENT_KIND_SYNC, began)
                        synced = True
                    await tell(pb.EVENT_KIND_DELETE if row.deleted else pb.EVENT_KIND_PUT, row.seq, row)
                if upto == at:
                    await changed.wait()
                at = upto
        finally:
            self._watches -= 1

    def _check_running(self):
        if self._stopping:
            raise Failure("UNAVAILABLE", "the plugin is stopping", hint="resume from the last position")

    async def _poll(self):
        """Tells the watches of what other processes wrote."""
        seen = self.store.touched()
        while self._watches:
            await asyncio.sleep(_POLL)
            now = self.store.touched()
            if now != seen:
                seen = now
                self._wake()
        self._poller = None

    @call
    async def Ping(self, r):
        self.store.ping()
        return pb.PingResponse()

    @call
    async def Size(self, r):
        b, e, v, c = await self._write(self.store.size)
        return pb.SizeResponse(bytes=b, entries=e, versions=v, changes=c)

    @call
    async def Refresh(self, r):
        self.store  # not configured comes first
        raise Failure("UNIMPLEMENTED", 'this backend does not have the capability "refresh"')
