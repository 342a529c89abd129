"""A Ray cluster of nodes with one core each on this machine, in a process of its own.

It takes a line at a time on stdin ("add", "kill", "actors") and answers each with a line on stdout;
it ends its nodes when stdin ends, so that a test that fails, or is killed, leaves none behind.
With --pinned the first node has the first core for itself, the second one the second, and so on.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from ray.cluster_utils import Cluster

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    folder = tempfile.mkdtemp(prefix="fr-", dir="/tmp")  # paths of sockets are short
    cluster = Cluster()
    nodes = []
    cores = sorted(os.sched_getaffinity(0))

    def add(**more: object) -> None:
        if "--pinned" in sys.argv:  # what is started from here on has that core
            os.sched_setaffinity(0, {cores[len(nodes) % len(cores)]})
        nodes.append(cluster.add_node(**NODE, **more))

    try:
        add(include_dashboard=False, temp_dir=folder, no_monitor=True)
        add()
        answers.write(f"{cluster.address}\n")
        for line in sys.stdin:
            answer = line.strip()
            if answer == "kill":
                cluster.remove_node(nodes.pop(), allow_graceful=False)
            elif answer == "add":
                add()
            elif answer == "actors":
                answer = str(len(cluster.global_state.actor_table(None)))
            answers.write(f"{answer}\n")
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
