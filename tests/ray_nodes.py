"""A Ray cluster of nodes with one core each on this machine, in a process of its own.

It takes a line at a time on stdin ("add", "kill") and answers each with a line on stdout; it ends
its nodes when stdin ends, so that a test that fails, or is killed, leaves none behind.
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
    try:
        cluster.add_node(**NODE, include_dashboard=False, temp_dir=folder, no_monitor=True)
        nodes.append(cluster.add_node(**NODE))
        answers.write(f"{cluster.address}\n")
        for line in sys.stdin:
            if line.strip() == "kill":
                cluster.remove_node(nodes.pop(), allow_graceful=False)
            elif line.strip() == "add":
                nodes.append(cluster.add_node(**NODE))
            answers.write(f"{line.strip()}\n")
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
