"""The cases of README.md with the Python driver."""

import collections
import datetime
import decimal
import ipaddress
import json
import ssl
import sys
import threading
import uuid

from cassandra import ConsistencyLevel
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import Cluster, ExecutionProfile, EXEC_PROFILE_DEFAULT
from cassandra.policies import DCAwareRoundRobinPolicy, RetryPolicy, TokenAwarePolicy
from cassandra.query import BatchStatement, BatchType, SimpleStatement
from cassandra.util import Date, Duration, Time

Pair = collections.namedtuple("Pair", "first second")


def say(**line):
    print(json.dumps(line), flush=True)


def check(got, want, what):
    if got != want:
        raise AssertionError(f"{what}: got {got!r}, want {want!r}")


class CountingRetryPolicy(RetryPolicy):
    """The driver's own policy; it counts how often it said to try again."""

    def __init__(self):
        self.retries = 0

    def counted(self, decision):
        if decision[0] in (self.RETRY, self.RETRY_NEXT_HOST):
            self.retries += 1
        return decision

    def on_read_timeout(self, *a, **k):
        return self.counted(super().on_read_timeout(*a, **k))

    def on_write_timeout(self, *a, **k):
        return self.counted(super().on_write_timeout(*a, **k))

    def on_unavailable(self, *a, **k):
        return self.counted(super().on_unavailable(*a, **k))

    def on_request_error(self, *a, **k):
        return self.counted(super().on_request_error(*a, **k))


class Program:
    def __init__(self, job):
        self.job, self.run = job, job["run"]
        self.policy = CountingRetryPolicy()
        options = {}
        if job["version"]:
            options["protocol_version"] = job["version"]
        if job["tls"]:
            context = ssl.create_default_context(cafile=job["tls"]["ca"])
            context.check_hostname = False
            if job["tls"]["cert"]:
                context.load_cert_chain(job["tls"]["cert"], job["tls"]["key"])
            options["ssl_context"] = context
        self.cluster = Cluster(
            job["contacts"], port=job["port"],
            auth_provider=PlainTextAuthProvider(job["username"], job["password"]),
            compression=job["compression"] or False,
            execution_profiles={EXEC_PROFILE_DEFAULT: ExecutionProfile(
                load_balancing_policy=TokenAwarePolicy(DCAwareRoundRobinPolicy(job["datacenter"])),
                retry_policy=self.policy, request_timeout=30, consistency_level=ConsistencyLevel.LOCAL_ONE)},
            **options)
        self.session = self.cluster.connect(job["keyspace"], wait_for_all_pools=True)

    def connect(self):
        check(len(list(self.session.execute("SELECT key FROM system.local"))), 1, "rows of system.local")
        return {"version": self.cluster.protocol_version, "hosts": len(self.cluster.metadata.all_hosts())}

    def types(self):
        self.cluster.register_user_type(self.job["keyspace"], "pair", Pair)
        values = {
            "c_ascii": "ascii", "c_bigint": -2**63, "c_blob": b"\x00\xff\x80", "c_boolean": True,
            "c_date": Date(datetime.date(1969, 2, 3)), "c_decimal": decimal.Decimal("-12345678901234567890.000123"),
            "c_double": 1e-300, "c_duration": Duration(-14, -3, -7200000000001), "c_float": -0.5,
            "c_inet": str(ipaddress.ip_address("2001:db8::1")), "c_int": -2**31, "c_smallint": -2**15, "c_text": "tëxt €",
            "c_time": Time(86399999999999), "c_timestamp": datetime.datetime(2026, 1, 2, 3, 4, 5, 678000),
            "c_timeuuid": uuid.uuid1(), "c_tinyint": -128, "c_uuid": uuid.uuid4(), "c_varchar": "", "c_varint": 2**100,
            "c_list": [3, 1, 2], "c_set": {"a", "b"}, "c_map": {"k": 2**40}, "c_tuple": (1, None, 0.25), "c_udt": Pair(7, "seven"),
            "c_nested": {"k": [1, 2]},
        }
        names = ", ".join(values)
        insert = self.session.prepare(f"INSERT INTO types (run, {names}) VALUES (?{', ?' * len(values)})")
        select = self.session.prepare(f"SELECT {names} FROM types WHERE run = ?")
        self.session.execute(insert, [self.run] + list(values.values()))
        row = self.session.execute(select, [self.run]).one()
        simple = self.session.execute(f"SELECT {names} FROM types WHERE run = %s", [self.run]).one()
        for name, want in values.items():
            for got in (getattr(row, name), getattr(simple, name)):
                check(dict(got) if name in ("c_map", "c_nested") else set(got) if name == "c_set" else got, want, name)
        self.session.execute(insert, [self.run + " empty"] + [None] * len(values))
        check(tuple(self.session.execute(select, [self.run + " empty"]).one()), (None,) * len(values), "nulls")

    def paging(self):
        insert = self.session.prepare("INSERT INTO items (run, id, value) VALUES (?, ?, ?)")
        for future in [self.session.execute_async(insert, [self.run, i, f"value {i}"]) for i in range(250)]:
            future.result()
        select = self.session.prepare("SELECT id, value FROM items WHERE run = ?")
        select.fetch_size = 20
        check([(r.id, r.value) for r in self.session.execute(select, [self.run])], [(i, f"value {i}") for i in range(250)], "all pages")
        first = self.session.execute(select, [self.run])
        check([r.id for r in first.current_rows], list(range(20)), "first page")
        second = self.session.execute(select, [self.run], paging_state=first.paging_state)
        check([r.id for r in second.current_rows], list(range(20, 40)), "page of a kept state")

    def batches(self):
        insert = self.session.prepare("INSERT INTO items (run, id, value) VALUES (?, ?, ?)")
        run = self.run + " batch"
        for start, kind in ((0, BatchType.LOGGED), (10, BatchType.UNLOGGED)):
            batch = BatchStatement(kind)
            for i in range(3):
                batch.add(insert, [run, start + i, "prepared"])
            batch.add(SimpleStatement("INSERT INTO items (run, id, value) VALUES (%s, %s, 'simple')"), [run, start + 3])
            self.session.execute(batch)
        rows = self.session.execute("SELECT id, value FROM items WHERE run = %s", [run])
        check([tuple(r) for r in rows], [(s + i, "simple" if i == 3 else "prepared") for s in (0, 10) for i in range(4)], "rows of batches")
        update = self.session.prepare("UPDATE counters SET n = n + ? WHERE run = ? AND id = ?")
        for _ in range(2):
            batch = BatchStatement(BatchType.COUNTER)
            batch.add(update, [5, run, 1])
            batch.add(update, [-2, run, 2])
            self.session.execute(batch)
        check([tuple(r) for r in self.session.execute("SELECT id, n FROM counters WHERE run = %s", [run])], [(1, 10), (2, -4)], "counters")

    def lwt(self):
        run = self.run + " lwt"
        insert = self.session.prepare("INSERT INTO items (run, id, value) VALUES (?, 1, ?) IF NOT EXISTS")
        check(self.session.execute(insert, [run, "first"]).was_applied, True, "first insert")
        second = self.session.execute(insert, [run, "second"]).one()
        check((second.applied, second.value), (False, "first"), "second insert")
        update = self.session.prepare("UPDATE items SET value = ? WHERE run = ? AND id = 1 IF value = ?")
        check(self.session.execute(update, ["third", run, "wrong"]).one(), (False, "first"), "update with a wrong value")
        check(self.session.execute(update, ["third", run, "first"]).was_applied, True, "update with the right value")

    def schema(self):
        table = self.job["table"]
        self.session.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, b text, d text)")
        insert = self.session.prepare(f"INSERT INTO {table} (id, b, d) VALUES (?, 'b', 'd')")
        select = self.session.prepare(f"SELECT * FROM {table} WHERE id = ?")

        def read(i, **want):
            self.session.execute(insert, [i])
            row = self.session.execute(select, [i]).one()._asdict()
            # A driver may leave out a column that its PREPARE did not know.
            for name, value in row.items():
                check(value, {"id": i, **want}.get(name), f"column {name} of {row}")

        read(1, b="b", d="d")
        self.session.execute(f"ALTER TABLE {table} ADD c text")
        read(2, b="b", d="d")
        self.session.execute(self.session.prepare(f"INSERT INTO {table} (id, b, c, d) VALUES (?, 'b', 'c', 'd')"), [3])
        row = self.session.execute(select, [3]).one()._asdict()
        check({k: v for k, v in row.items() if k != "c"}, {"id": 3, "b": "b", "d": "d"}, "old statement on a new row")
        again = self.session.execute(f"SELECT * FROM {table} WHERE id = 3").one()
        check(tuple(again), (3, "b", "c", "d"), "new statement on a new row")
        self.session.execute(f"ALTER TABLE {table} DROP c")
        read(4, b="b", d="d")
        self.session.execute(f"DROP TABLE {table}")

    def tokens(self):
        select = self.session.prepare("SELECT value FROM keys WHERE run = ? AND id = ?")
        used = set()
        for i in range(60):
            bound = select.bind([self.run, i])
            want = {h.address for h in self.cluster.metadata.get_replicas(self.job["keyspace"], bound.routing_key)}
            result = self.session.execute(bound)
            got = result.response_future.coordinator_host.address
            check(want, {got}, f"coordinator of key {i} and its replicas")
            used.add(got)
        return {"coordinators": sorted(used)}

    def load(self):
        """Goes on until standard input ends."""
        read = self.session.prepare("SELECT value FROM keys WHERE run = ? AND id = ?")
        read.is_idempotent = True
        write = self.session.prepare("INSERT INTO keys (run, id, value) VALUES (?, ?, ?)")
        write.is_idempotent = True
        append = self.session.prepare("UPDATE items SET tags = tags + ? WHERE run = ? AND id = ?")
        counts = {kind: {"ok": 0, "failed": 0} for kind in ("read", "idempotent", "other")}
        errors, lock, ended = collections.Counter(), threading.Lock(), threading.Event()

        def worker(w):
            n = 0
            while not ended.is_set():
                n += 1
                for kind, statement, values in (("read", read, [self.run, w]), ("idempotent", write, [self.run, w, f"{n}"]),
                                                ("other", append, [[n % 100], f"{self.run} {w} {n // 100}", n % 100])):
                    try:
                        self.session.execute(statement, values)
                        outcome, error = "ok", None
                    except Exception as e:
                        outcome, error = "failed", f"{kind}: {type(e).__name__}: {e}"
                    with lock:
                        counts[kind][outcome] += 1
                        if error:
                            errors[error] += 1
                if n == 20 and w == 0:
                    say(case="load", ok=True, detail="running")
                ended.wait(self.job["pause_ms"] / 1000)

        workers = [threading.Thread(target=worker, args=(w,)) for w in range(self.job["workers"])]
        for w in workers:
            w.start()
        sys.stdin.read()
        ended.set()
        for w in workers:
            w.join()
        return {"counts": counts, "errors": dict(errors), "retries": self.policy.retries}


def main():
    job = json.loads(sys.stdin.readline())
    try:
        program = Program(job)
    except Exception as e:
        say(case="connect", ok=False, detail=f"{type(e).__name__}: {e}")
        return
    for case in job["cases"]:
        try:
            say(case=case, ok=True, **(getattr(program, case)() or {}))
        except Exception as e:
            say(case=case, ok=False, detail=f"{type(e).__name__}: {e}")
    program.cluster.shutdown()


main()
