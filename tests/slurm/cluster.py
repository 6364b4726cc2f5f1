"""A real SLURM of several virtual nodes on one machine, for tests and for trying things out.

    python -m tests.slurm.cluster up [2] | down
    python -m tests.slurm.cluster crash | freeze | thaw | start | restart_daemon node1
    eval "$(python -m tests.slurm.cluster env)"     so that sbatch, squeue ... of this shell find it

Each slurmd has a UTS namespace of its own, so that a node has a name and all that runs on it can be
found by /proc/PID/ns/uts; and a mount namespace, in which /etc/hosts is ours. Everything is kept in
one folder, named by SLURM_CONF: the machine's own configuration is neither read nor written.
"""

import contextlib
import fcntl
import getpass
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

FOLDER = Path("/var/tmp/helix-test-slurm")  # munged wants no parent that others may write to
PACKAGES = ("munge", "slurmctld", "slurmd", "slurm-client")
ACCOUNTING = ("slurmdbd", "slurm-wlm-mysql-plugin", "mariadb-server")
PORT = 26810  # of slurmctld; the database, slurmdbd and the nodes follow it
N_CPUS = 8
N_GPUS = 2
CLUSTER = "helixtest"
HELD_S = 5  # cred_expire: how long SLURM holds a requeued job before it may start again

SLURM_CONF = """\
ClusterName={cluster}
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmctldPort={port}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire={held_s}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=256
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=0
KillWait=5
SlurmctldTimeout=30
SlurmdTimeout=30
InactiveLimit=0
WaitTime=0
MessageTimeout=10
TCPTimeout=2
MinJobAge=600
ReturnToService=2
FirstJobId={first_job}
SlurmdParameters=config_overrides
GresTypes=gpu
{accounting}
{nodes}
PartitionName=train Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=10 PriorityTier=1 \
PreemptMode=REQUEUE GraceTime=60
PartitionName=high Nodes=ALL MaxTime=INFINITE DefaultTime=10 PriorityTier=10 PreemptMode=OFF
"""
BY_DATABASE = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={port}
AccountingStoragePass={folder}/munge/socket"""
SLURMDBD_CONF = """\
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
DbdHost=localhost
DbdPort={port}
SlurmUser=root
LogFile={folder}/log/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database_port}
StorageUser=slurm
StoragePass=helixtest
StorageLoc=slurm_acct_db
"""
USER_OF_DATABASE = (
    "create database if not exists slurm_acct_db;"
    "create user if not exists 'slurm'@'127.0.0.1' identified by 'helixtest';"
    "create user if not exists 'slurm'@'localhost' identified by 'helixtest';"
    "grant all on slurm_acct_db.* to 'slurm'@'127.0.0.1';"
    "grant all on slurm_acct_db.* to 'slurm'@'localhost';"
)


class ClusterError(RuntimeError):
    """SLURM did not come up; the message holds the end of the logs."""


def reason_to_skip() -> str:
    """Say why there can be no cluster here; empty where there can."""
    if platform.system() != "Linux" or not Path("/etc/debian_version").exists():
        return "needs Debian, whose packages bring SLURM"
    if os.geteuid() != 0:
        return "needs root, to install packages and to make namespaces"
    if subprocess.run(["unshare", "-um", "true"], capture_output=True, check=False).returncode:
        return "needs namespaces, and unshare is refused"
    return ""


class Cluster:
    """The daemons of one cluster and what hurts them."""

    def __init__(self, folder: Path = FOLDER, *, has_accounting: bool = True) -> None:
        self.folder = folder
        self.has_accounting = has_accounting
        self.lock: int | None = None
        self.children: list[
            subprocess.Popen[bytes]
        ] = []  # python complains of one it loses sight of

    @property
    def environment(self) -> dict[str, str]:
        """What a shell needs to talk to this cluster."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def up(self, n_nodes: int = 2) -> None:
        """Install what is missing and start everything; wait until all nodes are idle."""
        install(PACKAGES + (ACCOUNTING if self.has_accounting else ()))
        self.claim()
        self.down()
        for name in ("log", "spool", "state", "dev", "munge"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        self._configure(n_nodes)
        try:
            self._start_munge()
            if self.has_accounting:
                self._start_accounting()
            self._spawn("slurmctld", "slurmctld", "-D", "-c")
            self._wait("slurmctld", lambda: self.ask("scontrol", "ping").returncode == 0)
            for number in range(1, n_nodes + 1):
                self._spawn_node(f"node{number}")
            self._wait("the nodes", lambda: self.n_usable() == n_nodes)
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """Cancel all jobs, end what runs on the nodes, and stop the daemons, last started first."""
        if self.ask("scontrol", "ping", timeout_s=5).returncode == 0:
            self.ask("scancel", "--state=PENDING", f"--user={getpass.getuser()}")
            self.ask("scancel", f"--user={getpass.getuser()}")
        for record in self._records():
            if record["name"].startswith("node"):
                self._signal_node(record["name"], signal.SIGKILL)
        for record in reversed(self._records()):
            stop(record)
        for child in self.children:
            child.poll()
        (self.folder / "daemons.json").unlink(missing_ok=True)

    def crash(self, node: str) -> None:
        """Kill everything on a node at once, as a power loss does."""
        for _ in range(3):  # what was forked meanwhile
            self._signal_node(node, signal.SIGKILL)
            time.sleep(0.05)

    def freeze(self, node: str) -> None:
        """Stop everything on a node without killing it."""
        self._signal_node(node, signal.SIGSTOP)

    def thaw(self, node: str) -> None:
        """Let a frozen node go on."""
        self._signal_node(node, signal.SIGCONT)

    def start(self, node: str) -> None:
        """Start a crashed node again."""
        self._spawn_node(node)

    def restart_daemon(self, node: str) -> None:
        """Kill a node's slurmd alone, and start another in the same namespaces."""
        pids = self._pids(node)
        daemon = next(pid for pid in pids if command_of(pid) == "slurmd")
        os.kill(daemon, signal.SIGKILL)
        self._spawn_node(node, inside=next((pid for pid in pids if pid != daemon), None))

    def run(self, *command: str, timeout_s: float = 60) -> str:
        """Run a SLURM command that must succeed; give what it printed."""
        done = self.ask(*command, timeout_s=timeout_s)
        if done.returncode:
            raise ClusterError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def ask(self, *command: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a SLURM command; one that does not answer counts as failed."""
        environment = os.environ | self.environment
        try:
            return subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=timeout_s
            )
        except (subprocess.TimeoutExpired, FileNotFoundError) as error:
            return subprocess.CompletedProcess(command, 124, "", str(error))

    def n_usable(self) -> int:
        """Count the nodes that can take or hold jobs."""
        states = self.ask("sinfo", "-h", "-N", "-p", "train", "-o", "%T").stdout.split()
        return sum(state in ("idle", "mixed", "allocated") for state in states)

    def claim(self) -> None:
        """Let one process at a time have the folder and the ports."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.lock is None:
            self.lock = os.open(self.folder / "lock", os.O_CREAT | os.O_RDWR)
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ClusterError(f"{self.folder}: another process uses this cluster") from None

    def _configure(self, n_nodes: int) -> None:
        nodes = range(1, n_nodes + 1)
        hosts = ["127.0.0.1 localhost", *(f"127.0.1.{n} node{n}" for n in nodes)]
        (self.folder / "hosts").write_text("\n".join(hosts) + "\n")
        for number in range(N_GPUS):
            (self.folder / "dev" / f"nvidia{number}").touch()
        lines = [
            f"NodeName=node{n} NodeHostname=node{n} NodeAddr=127.0.1.{n} Port={PORT + 10 + n} "
            f"CPUs={N_CPUS} RealMemory=8000 Gres=gpu:{N_GPUS} State=UNKNOWN"
            for n in nodes
        ]
        by_database = BY_DATABASE.format(port=PORT + 2, folder=self.folder)
        values = {
            "cluster": CLUSTER,
            "port": PORT,
            "folder": self.folder,
            "held_s": HELD_S,
            "accounting": by_database if self.has_accounting else "",
            "nodes": "\n".join(lines),
            # Ids that start over would let a job meet another's files in a folder used again.
            "first_job": 1000 + int(time.time()) // 10 % 6_000_000 * 10,
        }
        (self.folder / "slurm.conf").write_text(SLURM_CONF.format(**values))
        gpus = f"Name=gpu File={self.folder}/dev/nvidia[0-{N_GPUS - 1}]"
        (self.folder / "gres.conf").write_text(f"AutoDetect=off\n{gpus}\n")
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\nConstrainCores=no\n")
        values = {"folder": self.folder, "port": PORT + 2, "database_port": PORT + 1}
        self.folder.joinpath("slurmdbd.conf").write_text(SLURMDBD_CONF.format(**values))
        (self.folder / "slurmdbd.conf").chmod(0o600)  # or slurmdbd refuses it

    def _start_munge(self) -> None:
        folder = self.folder / "munge"
        shutil.chown(folder, "munge", "munge")
        folder.chmod(0o755)
        key = folder / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        shutil.chown(key, "munge", "munge")
        files = [f"--{n}-file={folder / n}" for n in ("key", "pid", "log", "seed")]
        as_munge = ["setpriv", "--reuid=munge", "--regid=munge", "--init-groups"]
        self._spawn("munged", *as_munge, "munged", "-F", f"--socket={folder}/socket", *files)
        test = f"munge -n -S {folder}/socket | unmunge -S {folder}/socket"
        self._wait("munged", lambda: self.ask("sh", "-c", test).returncode == 0)

    def _start_accounting(self) -> None:
        data = self.folder / "database"
        own = ["--no-defaults", "--user=root", f"--datadir={data}"]
        if not (data / "mysql").is_dir():
            data.mkdir(exist_ok=True)
            options = ["--auth-root-authentication-method=socket", "--skip-test-db"]
            self.run("mariadb-install-db", *own, *options)
        port, socket = PORT + 1, data / "socket"
        small = ["--skip-log-bin", "--innodb-buffer-pool-size=64M"]
        quick = ["--innodb-flush-log-at-trx-commit=0", "--innodb-lock-wait-timeout=900"]
        where = [f"--socket={socket}", f"--port={port}", "--bind-address=127.0.0.1"]
        self._spawn("mariadbd", "mariadbd", *own, *where, *small, *quick)
        client = ["mariadb", "--no-defaults", f"--socket={socket}", "--user=root", "--execute"]
        make_user = [*client, USER_OF_DATABASE]
        self._wait("mariadbd", lambda: self.ask(*make_user).returncode == 0)
        self._spawn("slurmdbd", "slurmdbd", "-D")
        listed = ["sacctmgr", "-n", "-P", "show", "cluster", "format=cluster"]
        self._wait("slurmdbd", lambda: self.ask(*listed).returncode == 0)
        if CLUSTER not in self.run(*listed).split():
            self.run("sacctmgr", "-i", "-Q", "add", "cluster", CLUSTER)

    def _spawn_node(self, node: str, inside: int | None = None) -> None:
        (self.folder / "spool" / node).mkdir(exist_ok=True)
        setup = f"hostname {node}; mount --bind {self.folder}/hosts /etc/hosts; "
        enter = ["nsenter", f"--target={inside}", "--uts", "--mount"] if inside else None
        script = f"{'' if inside else setup}exec slurmd -D -N {node}"
        self._spawn(node, *(enter or ["unshare", "-um"]), "sh", "-c", script)

    def _spawn(self, name: str, *command: str) -> None:
        """Start a daemon in the foreground of a session of its own, and write down which it is."""
        with (self.folder / "log" / f"{name}.out").open("ab") as output:
            process = subprocess.Popen(
                command,
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.children.append(process)
        kept = [record for record in self._records() if record["name"] != name]
        record = {"name": name, "pid": process.pid, "started": started_at(process.pid)}
        (self.folder / "daemons.json").write_text(json.dumps([*kept, record]))

    def _records(self) -> list[dict]:
        file = self.folder / "daemons.json"
        return json.loads(file.read_text()) if file.exists() else []

    def _wait(self, what: str, is_ready: Callable[[], bool], timeout_s: float = 40) -> None:
        end = time.monotonic() + timeout_s
        while not is_ready():
            if time.monotonic() > end:
                logs = sorted((self.folder / "log").iterdir())
                tails = [f"--- {f.name}\n{f.read_text(errors='replace')[-600:]}" for f in logs]
                raise ClusterError(f"{what}: not ready in {timeout_s} s\n" + "\n".join(tails))
            time.sleep(0.1)

    def _pids(self, node: str) -> list[int]:
        """Find all processes on a node, by the namespace of the slurmd that was started for it."""
        space = self.folder / f"{node}.namespace"
        record = next((r for r in self._records() if r["name"] == node), None)
        if record and started_at(record["pid"]) == record["started"]:
            name = namespace_of(record["pid"])
            if name and name != namespace_of(os.getpid()):
                space.write_text(name)
        if not space.exists():
            return []
        name = space.read_text()
        return [int(p.name) for p in Path("/proc").glob("[0-9]*") if namespace_of(p.name) == name]

    def _signal_node(self, node: str, number: signal.Signals) -> None:
        for pid in self._pids(node):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def install(packages: tuple[str, ...]) -> None:
    """Install what is missing of Debian's packages, starting no daemon."""
    query = ["dpkg-query", "-W", "-f=${Status}"]
    missing = [
        name
        for name in packages
        if "ok installed"
        not in subprocess.run([*query, name], capture_output=True, text=True, check=False).stdout
    ]
    if not missing:
        return
    policy = Path("/usr/sbin/policy-rc.d")  # asked by packages before they start a daemon
    is_ours = not policy.exists()
    if is_ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    apt = ["apt-get", "-o", "DPkg::Lock::Timeout=120", "-qq"]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        for command in (["update"], ["install", "-y", "--no-install-recommends", *missing]):
            done = subprocess.run(
                [*apt, *command], env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise ClusterError(f"apt-get {' '.join(command)}: {done.stderr[-2000:]}")
    finally:
        if is_ours:
            policy.unlink()


def stop(record: dict) -> None:
    """End a daemon, which is known by pid and start time: a pid is used again."""
    for number, timeout_s in ((signal.SIGTERM, 10), (signal.SIGKILL, 5)):
        end = time.monotonic() + timeout_s
        while is_running(record):
            with contextlib.suppress(ProcessLookupError):
                os.kill(record["pid"], number)
            if time.monotonic() > end:
                break
            time.sleep(0.05)


def is_running(record: dict) -> bool:
    """Tell whether a daemon lives; one that ended and waits for its parent does not."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(record["pid"], os.WNOHANG)
    fields = stat_of(record["pid"])
    return bool(fields) and fields[19] == record["started"] and fields[0] != "Z"


def started_at(pid: int) -> str:
    """Give the clock tick at which a process started; empty if it is gone."""
    return next(iter(stat_of(pid)[19:20]), "")


def stat_of(pid: int) -> list[str]:
    """Give /proc/PID/stat from the state on; empty if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def namespace_of(pid: int | str) -> str:
    """Name the UTS namespace of a process; empty if it is gone."""
    try:
        return os.readlink(f"/proc/{pid}/ns/uts")
    except OSError:
        return ""


def command_of(pid: int) -> str:
    """Give the name of a process's program; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def main(arguments: list[str]) -> None:
    """Do what the first argument says."""
    verb, *rest = arguments or ["help"]
    cluster = Cluster()
    if verb == "up":
        cluster.up(int(rest[0]) if rest else 2)
    elif verb == "env":
        print(*(f"export {name}={value}" for name, value in cluster.environment.items()), sep="\n")
    elif verb in ("down", "crash", "freeze", "thaw", "start", "restart_daemon"):
        getattr(cluster, verb)(*rest)
    else:
        print(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
