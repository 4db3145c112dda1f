"""One client of Mooncake Store, driven by hearth-bench: a line of JSON in, a line of JSON out.

A process is a storage node if it mounts a segment, and a plain client if it does not. It ends when its
input does, so it never outlives the bench. `bench/src/failures/mooncake/worker.rs` is the other end.
"""

import hashlib
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait

# What every payload begins with, so that the bench finds it on disk: see `bench/src/failures/payload.rs`.
MARKER = b"hearth-bench key"
# Calls in work when everything is read: one for a key whose node is gone takes seconds.
THREADS = 48


def payload(key, size):
    head = MARKER + key.to_bytes(8, "little")
    return head + hashlib.shake_128(head).digest(size - len(head))


def name(key):
    return f"key-{key}"


class Worker:
    def __init__(self):
        from mooncake.store import MooncakeDistributedStore, ReplicateConfig

        self.store = MooncakeDistributedStore()
        self.replicate = ReplicateConfig
        self.size = 0
        self.pool = ThreadPoolExecutor(THREADS)

    def setup(self, order):
        """Connects; mounts a segment unless its size is 0."""
        self.size = order["block_bytes"]
        settings = {
            "local_hostname": "127.0.0.1",
            "metadata_server": "P2PHANDSHAKE",
            "global_segment_size": order["segment_bytes"],
            "local_buffer_size": order["buffer_bytes"],
            "protocol": "tcp",
            "rdma_devices": "",
            "master_server_addr": order["master"],
        }
        if order["ssd"]:
            settings |= {"enable_ssd_offload": True, "ssd_offload_path": order["ssd"]}
        code = self.store.setup(**settings)
        return {"code": code}

    def put(self, order):
        config = self.replicate()
        config.replica_num = order["replicas"]
        codes = [self.store.put(name(key), payload(key, self.size), config) for key in order["keys"]]
        return {"codes": codes}

    def exists(self, order):
        """1 is yes, 0 is no, and anything below is no answer."""
        return {"codes": self.store.batch_is_exist([name(key) for key in order["keys"]])}

    def get(self, order):
        return {"got": [self.got(key) for key in order["keys"]]}

    def get_all(self, order):
        """As get, with many calls at once; what has not come in time is missing."""
        calls = [self.pool.submit(self.got, key) for key in order["keys"]]
        done, late = wait(calls, timeout=order["seconds"])
        for call in late:
            call.cancel()
        return {"got": [call.result() if call in done else "missing" for call in calls]}

    def got(self, key):
        value = self.store.get(name(key))
        if not value:
            return "missing"
        return "right" if value == payload(key, self.size) else "wrong"

    def copies(self, order):
        """How many whole copies the master knows of each key, in memory and on disk."""
        found = self.store.batch_get_replica_desc([name(key) for key in order["keys"]])
        memory, disk = [], []
        for key in order["keys"]:
            whole = [copy for copy in found.get(name(key), []) if copy.status.name == "COMPLETE"]
            memory.append(sum(copy.is_memory_replica() for copy in whole))
            disk.append(sum(copy.is_local_disk_replica() for copy in whole))
        return {"memory": memory, "disk": disk}


def main():
    # The library may print what it likes: our answers have a descriptor of their own.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker()
    for line in sys.stdin:
        order = json.loads(line)
        began = time.monotonic()
        try:
            answer = getattr(worker, order["do"])(order)
        except Exception as error:  # A failed call is an answer too: the bench counts it.
            answer = {"error": f"{type(error).__name__}: {error}"}
        answer["seconds"] = time.monotonic() - began
        print(json.dumps(answer), file=answers, flush=True)
    # The destructors of a client whose master is gone would wait for it.
    os._exit(0)


main()
