"""One RGB and one thermal camera of the node: it connects their topics, the pipeline and what is published."""

import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus

from fusionproxy_ros.core.frames import Mode, Pair
from fusionproxy_ros.pipeline import answers
from fusionproxy_ros.pipeline.answers import Answer, Answers
from fusionproxy_ros.pipeline.drift_watch import DriftWatch
from fusionproxy_ros.pipeline.fuser_pool import FuserPool
from fusionproxy_ros.pipeline.live_registration import LiveRegistration, Lookup
from fusionproxy_ros.pipeline.settings import Settings
from fusionproxy_ros.pipeline.worker import CameraQueue, Worker
from fusionproxy_ros.ros.dds import large_image_profile
from fusionproxy_ros.ros.diagnostics import Health
from fusionproxy_ros.ros.message_filters_sync import make_sync
from fusionproxy_ros.ros.publishers import Publishers
from fusionproxy_ros.ros.subscriptions import Subscriptions, image_topics


class CameraPair:
    """Made at configure, ended by `close`; from `start` to `stop` its frames are answered by a worker.

    Callbacks, `start`, `stop` and what they call run in the executor's thread; what a PairHandler does runs in the
    worker's two threads.

    name: the first part of its topics (front/rgb/image_raw, front/fused/image); empty for an only pair.
    lookup: from TF; None where no TF is used.
    """

    def __init__(self, node: Any, name: str, settings: Settings, pool: FuserPool, lookup: Lookup | None):
        self.name, self._node, self._settings, self._pool = name, node, settings, pool
        prefix, topics = f"{name}/" if name else "", settings.topics
        by_depth = settings.registration.mode == "depth"
        rgb, thermal, depth = image_topics(node, prefix, settings)
        self._health = Health(rgb, thermal, depth, name or "fusion")
        self._registration = LiveRegistration(settings, (rgb, thermal), lookup)
        lend = partial(pool.lend, name)
        self._answers = Answers(self._registration.current, lend, by_depth, self._report)
        self._watch = DriftWatch(self._registration)
        self._subscriptions = Subscriptions(
            node, prefix, topics, self._health, self._registration.set_camera_info, self._say_unanswered
        )
        self._queue: CameraQueue | None = None
        self._publishers = Publishers(node, prefix, topics.debug_images, self.follow_demand)

    def close(self) -> None:
        """Give back what the node made for it."""
        self._publishers.close()

    def start(self, worker: Worker) -> None:
        """Let `worker` answer its frames."""
        self._queue = worker.add_queue(make_sync(self._settings.sync), self)
        self.follow_demand()

    def stop(self) -> None:
        """Unsubscribe; harmless twice."""
        self._queue = None
        self.follow_demand()

    def follow_demand(self) -> None:
        """Listen to the cameras while started and while somebody listens to an output."""
        if self._queue and self._publishers.are_wanted:
            self._subscriptions.open(self._queue)
        else:
            self._subscriptions.close()

    def set_settings(self, settings: Settings) -> None:
        """Parameters that may have changed, those that may while it runs."""
        self._settings = settings
        self._registration.set_settings(settings)
        if self._queue:
            self._queue.configure(settings.sync)

    @property
    def problem(self) -> str:
        """Why thermal is not used, for a log; empty while it is."""
        problem = self._registration.problem
        return f"{self._health.thermal.topic} is not used: {problem}" if problem else ""

    def tick(self) -> None:
        """Call it about once a second: follows demand, where events of subscribers are not to be had, and TF."""
        self.follow_demand()
        self._registration.follow_transforms()

    def diagnose(self) -> list[DiagnosticStatus]:
        """Of the time since the last call."""
        publishers = {topic: self._node.count_publishers(topic) for topic in self._health.topics}
        idle = self._queue is not None and not self._subscriptions.are_open
        return self._health.diagnose(
            publishers, large_image_profile(), self._settings, self._pool.error, idle
        )

    # --- PairHandler: the worker's threads ----------------------------------------------------------------

    def fuse(self, pair: Pair) -> Answer:
        return self._answers.answer(pair)

    def publish(self, pair: Pair, answer: Answer) -> None:
        try:
            start_ns = time.monotonic_ns()
            self._publishers.publish_picture(answer, self._subscriptions.rgb_info)
            end_ns = time.monotonic_ns()
            self._publishers.publish_status(
                self._health.answered(answer, self._watch.estimate, start_ns, end_ns)
            )
            self._watch.offer(answer, self._settings.drift)
            self._publishers.publish_debug(answer)
        except Exception:  # the worker must outlive whatever one frame does
            self._report()

    def pass_through(self, pair: Pair, stalled_ns: int) -> None:
        self.publish(pair, answers.stalled(pair, stalled_ns))

    def skip(self, pair: Pair) -> Callable[[], None]:
        return partial(self._say_unanswered, pair.rgb.source.header, Mode.DROPPED, answers.OVERLOAD)

    def abandon(self) -> None:
        self._pool.abandon(self.name)

    def _say_unanswered(self, header: Any, mode: Mode, reason: str) -> None:
        try:
            self._publishers.publish_status(self._health.unanswered(header, mode, reason))
        except Exception:
            self._report()

    def _report(self) -> None:
        """Tell of the exception in hand."""
        if self._node.context.ok():  # else the process is ending and publishers are gone
            self._health.error = traceback.format_exc(limit=-1)
            self._node.log_error(traceback.format_exc())
