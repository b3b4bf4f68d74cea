"""The long-lived process of one pod: joins ttrpc, tasks, events and the reaper, and lives until Shutdown.

Laws: it holds no descriptor of whoever made it (wire.md 2.5); a lost connection, a signal or a bad request
never ends it; it goes when it has no task and is told so, or has had none for IDLE_SECONDS; its socket is
removed before it stops accepting, so that nobody joins a server that is leaving.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from setproctitle import setproctitle

from shim import cgroup
from shim import log as shim_log
from shim.errors import InvalidArgument, ShimError
from shim.guest import prepare
from shim.guest.reaper import Reaper
from shim.guest.runtime import OciRuntime, choose, choose_native
from shim.launch import Launch
from shim.options import parse_options
from shim.publish import Publisher
from shim.task.process import World
from shim.task.service import TaskService
from shim.task.timeline import Timeline
from shim.ttrpc.server import Server

IDLE_SECONDS = 60.0
DRAIN_SECONDS = 5.0

log = logging.getLogger(__name__)


class PodServer:
    """The parts of one pod, and how they end."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._reaper = Reaper()
        self._publisher = Publisher(launch.events, launch.namespace)
        self._leave = asyncio.Event()
        publisher = self._publisher
        world = World(self._reaper, publisher.publish, publisher.drain, self._job, prepare.run)
        self._tasks = TaskService(world, self._choose_runtime, self._timeline, self.leave)
        self._server = Server(self._tasks.services(), os.geteuid())

    async def run(self, listener: socket.socket) -> None:
        """Serves until it is time to leave, then sends what is queued."""
        self._reaper.install()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, log.warning, "ignoring signal %d: tasks run here", number)
        sending = loop.create_task(self._publisher.run(), name="publisher")
        idling = loop.create_task(self._leave_when_idle(), name="idle watch")
        await self._server.start(listener)
        log.info("pod server %s listens on %s", self._launch.group, self._launch.socket_path)
        await self._leave.wait()
        idling.cancel()
        await self._publisher.drain(DRAIN_SECONDS)
        self._server.stop()
        sending.cancel()

    def leave(self) -> None:
        """Nobody can join from now on; the answers under way still go out."""
        if self._leave.is_set():
            return  # the path may be a successor's by now
        with contextlib.suppress(OSError):
            self._launch.socket_path.unlink()
        self._leave.set()

    async def _leave_when_idle(self) -> None:
        quiet = 0.0
        while quiet < IDLE_SECONDS:
            await asyncio.sleep(IDLE_SECONDS / 4)
            quiet = 0.0 if self._tasks.tasks else quiet + IDLE_SECONDS / 4
        log.warning("no task for %.0f s: leaving", IDLE_SECONDS)
        self.leave()

    def _choose_runtime(self, options: AnyMessage, spec: Mapping[str, Any], native: bool) -> OciRuntime:  # noqa: FBT001  # see ChooseRuntime
        chosen = parse_options(options if options.type_url else self._launch.options)
        path = str((spec.get("linux") or {}).get("cgroupsPath", ""))
        place = (chosen, self._launch.settings, self._launch.namespace)
        if not native:
            return choose(*place, path)
        if not chosen.native_containers and not prepare.is_sandbox(spec):
            message = (
                "wanted a Spin artifact, found an ordinary image, and this runtime handler runs none "
                "(NativeContainers = false); push the app with `spinwheel push` or `spin registry push`"
            )
            raise InvalidArgument(message)
        return choose_native(*place, (str(spec.get("ociVersion", "")), path))

    def _timeline(self) -> Timeline:
        """The steps of `start` belong to the first task only."""
        steps, self._launch.steps = self._launch.steps, []
        return Timeline(steps)

    def _job(self, container_id: str, bundle: Path) -> prepare.Job:
        launch = self._launch
        return prepare.Job(container_id, launch.namespace, bundle, launch.containerd, launch.settings)


def detach(bundle: Path, kept: socket.socket) -> None:
    """Leaves the starter's session and descriptors: 0 and 1 on /dev/null, 2 on the log, `kept`, no others."""
    os.setsid()
    log_descriptor = shim_log.open_fifo(bundle)
    null = os.open(os.devnull, os.O_RDWR)
    for source, target in ((null, 0), (null, 1), (log_descriptor, 2)):
        os.dup2(source, target)
    os.closerange(3, kept.fileno())
    os.closerange(kept.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
    os.set_blocking(2, False)
    os.chdir("/")


def adjust_oom_score() -> None:
    """One above our parent's, so that the kernel takes us before containerd; best effort (wire.md 2.8)."""
    with contextlib.suppress(OSError, ValueError):
        score = Path("/proc/self/oom_score_adj")
        score.write_text(str(min(int(score.read_text()) + 1, 1000)))


def enter_cgroup(options: AnyMessage) -> None:
    """Moves into the cgroup that the handler's options name for pod servers; best effort (wire.md 2.8)."""
    try:
        wanted = parse_options(options).shim_cgroup
        if wanted:
            cgroup.join(wanted)
    except (ShimError, OSError) as error:
        log.warning("not in the cgroup that ShimCgroup names: %s", error)


def serve(launch: Launch, listener: socket.socket) -> None:
    """Becomes the pod server; returns when it has left."""
    detach(launch.bundle, listener)
    shim_log.configure(2, debug=launch.debug, pod=launch.group)
    setproctitle(
        f"containerd-shim-spin-v2 -namespace {launch.namespace} -id {launch.group} "
        f"-address {launch.containerd}"
    )
    os.umask(0o022)
    adjust_oom_score()
    enter_cgroup(launch.options)
    asyncio.run(_serve(launch, listener))


async def _serve(launch: Launch, listener: socket.socket) -> None:
    await PodServer(launch).run(listener)
