"""What a running version is, in the protocol's words."""

from __future__ import annotations

from collections.abc import Iterable

from videoai.open_inference.v2 import open_inference_pb2 as pb

from inference_server.detection import TensorSpec
from inference_server.engine import LoadedModel
from inference_server.serving import ServedModel, State
from inference_server.tensors.datatypes import BY_DTYPE
from inference_server.tensors.statistics import Parts, Statistics, Total

PLATFORM, BACKEND = "onnxruntime_onnx", "onnxruntime"
# The parameter that tells of the input which stands for all others. Among the inputs it would be sent along with them
# by programs that send whatever is listed.
FRAMES = "frames_input"


def metadata(model: LoadedModel) -> pb.ModelMetadataResponse:
    """The tensors of a version."""
    return pb.ModelMetadataResponse(
        name=model.version.model_name,
        versions=[str(model.version.version)],
        platform=PLATFORM,
        inputs=_tensors(model.ports.inputs),
        outputs=_tensors(model.ports.outputs),
    )


def config(model: LoadedModel) -> pb.ModelConfig:
    """A version as Triton would have it configured."""
    version, ports = model.version, model.ports
    batched = model.family.picture is not None and model.family.picture.batch is None
    kind, _, index = model.device.partition(":")
    said = {
        "metadata": repr(dict(ports.metadata)),
        "family": model.family.name,
        "sha256": model.sha256,
        "provider": model.provider,
    }
    if ports.frames is not None:
        said[FRAMES] = f"{ports.frames.name} UINT8 {_dims(ports.frames, batched=False)}"
    answer = pb.ModelConfig(
        name=version.model_name,
        platform=PLATFORM,
        backend=BACKEND,
        version_policy=pb.ModelVersionPolicy(specific=pb.ModelVersionPolicy.Specific(versions=[version.version])),
        max_batch_size=model.max_batch if batched else 0,
        input=[
            pb.ModelInput(name=spec.name, data_type=_type(spec), dims=_dims(spec, batched=batched))
            for spec in ports.inputs
        ],
        output=[
            pb.ModelOutput(name=spec.name, data_type=_type(spec), dims=_dims(spec, batched=batched))
            for spec in ports.outputs
        ],
        instance_group=[
            pb.ModelInstanceGroup(
                name=version.model_name,
                count=1,
                kind=pb.ModelInstanceGroup.KIND_CPU if kind == "cpu" else pb.ModelInstanceGroup.KIND_GPU,
                gpus=[int(index)] if index else [],
            )
        ],
        default_model_filename=version.path.name,
        parameters={name: pb.ModelParameter(string_value=value) for name, value in said.items()},
        model_transaction_policy=pb.ModelTransactionPolicy(decoupled=False),
    )
    if batched:
        answer.dynamic_batching.SetInParent()
    return answer


def index(served: Iterable[ServedModel], *, ready: bool) -> pb.RepositoryIndexResponse:
    """The models, or those that run."""
    return pb.RepositoryIndexResponse(models=[_entry(model) for model in served if model.running or not ready])


def statistics(model: LoadedModel, seen: Statistics) -> pb.ModelStatistics:
    """What a version has answered."""
    return pb.ModelStatistics(
        name=model.version.model_name,
        version=str(model.version.version),
        last_inference=seen.last_milliseconds,
        inference_count=seen.rows,
        execution_count=seen.parts.run.count,
        inference_stats=pb.InferStatistics(
            success=_duration(seen.success),
            fail=_duration(seen.fail),
            queue=_duration(seen.queue),
            compute_input=_duration(seen.parts.read),
            compute_infer=_duration(seen.parts.run),
            compute_output=_duration(seen.parts.write),
            cache_hit=pb.StatisticDuration(),
            cache_miss=pb.StatisticDuration(),
        ),
        batch_stats=[_batch(rows, parts) for rows, parts in sorted(seen.by_rows.items())],
    )


def _tensors(specs: Iterable[TensorSpec]) -> list[pb.ModelMetadataResponse.TensorMetadata]:
    return [
        pb.ModelMetadataResponse.TensorMetadata(
            name=spec.name, datatype=BY_DTYPE[spec.dtype].name, shape=_dims(spec, batched=False)
        )
        for spec in specs
    ]


def _type(spec: TensorSpec) -> pb.DataType.ValueType:
    name = BY_DTYPE[spec.dtype].name
    return pb.DataType.Value(f"TYPE_{'STRING' if name == 'BYTES' else name}")


def _dims(spec: TensorSpec, *, batched: bool) -> list[int]:
    return [-1 if size is None else size for size in spec.shape or ()][batched:]


def _entry(model: ServedModel) -> pb.RepositoryIndexResponse.ModelIndex:
    version = model.running.model.version.version if model.running else model.seen_version
    state = "READY" if model.running else "LOADING" if model.state is State.LOADING else "UNAVAILABLE"
    return pb.RepositoryIndexResponse.ModelIndex(
        name=model.model_name, version=str(version or ""), state=state if version else "", reason=model.last_error
    )


def _batch(rows: int, parts: Parts) -> pb.InferBatchStatistics:
    return pb.InferBatchStatistics(
        batch_size=rows,
        compute_input=_duration(parts.read),
        compute_infer=_duration(parts.run),
        compute_output=_duration(parts.write),
    )


def _duration(total: Total) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=total.count, ns=round(total.seconds * 1e9))
