"""summary.json: what a finished run came to, one flat object. What does not apply is null."""

from typing import Any

from common.data.datasets import Dataset
from common.strategies import find_strategy
from common.wire.messages import Ack
from edge_worker.config import TrainConfig
from edge_worker.counters import Totals
from edge_worker.loop import Plan
from edge_worker.runlog import RunLog


def make_summary(
    config: TrainConfig,
    plan: Plan,
    dataset: Dataset,
    precision: str,
    totals: Totals,
    runlog: RunLog,
    ack: Ack | None,
) -> dict[str, Any]:
    """Return the summary; `ack` is the cloud's last word, None where there was no cloud."""
    strategy = find_strategy(config.strategy)
    cloud, split = strategy.uses_cloud, strategy.cut == "split"
    left_over = len(dataset.train) - (plan.batches_per_epoch - 1) * config.batch_size
    per_epoch = (plan.batches_per_epoch - 1) * config.batch_size + min(config.batch_size, left_over)
    wall = totals.train_wall_s
    rate = config.link_rate if cloud else None
    return {
        "strategy": config.strategy,
        "model": config.model,
        "stem": config.stem,
        "classifier": config.classifier,
        "split": config.split if split else None,
        "exit": config.exit if strategy.exit else None,
        "dataset": config.dataset,
        "seed": config.seed,
        "bits": config.bits if split else None,
        "gradient_bits": config.gradient_bits if strategy.gradient else None,
        "images": config.images if strategy.sends_images else None,
        "epochs": config.epochs,
        "batch_size": config.batch_size,
        "batches": plan.total_batches,
        "samples": per_epoch * config.epochs,
        "batches_skipped": ack.counters.batches_skipped if ack is not None else None,
        "edge_accuracy": runlog.edge_accuracy,
        "cloud_accuracy": runlog.cloud_accuracy(plan.total_batches),
        "train_wall_s": wall,
        "epoch_train_s": totals.epoch_train_s,
        "epoch_bytes_up": totals.epoch_bytes_up,
        "edge_busy_s": totals.edge_busy_s,
        "edge_wait_s": totals.edge_wait_s if cloud else None,
        "link_busy_s": totals.link_busy_s if cloud else None,
        "link_down_busy_s": totals.link_down_busy_s if cloud and config.link_rate_down else None,
        "cloud_busy_s": ack.counters.busy_s if ack is not None else None,
        "bytes_up": totals.bytes_up,
        "bytes_down": totals.bytes_down,
        "eval_bytes_up": totals.eval_bytes_up,
        "link_rate_bps": rate,
        "goodput_bps": 8 * totals.delivered_bytes / wall if cloud and wall else None,
        "link_utilisation": 8 * totals.bytes_up / (rate * wall) if rate and wall else None,
        "resumes": totals.lives - 1,
        "edge_peak_rss_bytes": totals.edge_peak_rss_bytes,
        "cloud_peak_rss_bytes": ack.counters.peak_rss_bytes if ack is not None else None,
        # What each device makes of `auto` is its own: where the edge trains nothing, it cannot say.
        "precision": config.precision if strategy.sends_images else precision,
        "input_shape": list(dataset.image_shape),
        "classes": list(dataset.classes),
        "mean": list(dataset.mean),
        "std": list(dataset.std),
    }
