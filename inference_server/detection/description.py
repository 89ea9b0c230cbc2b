"""A model as families see it: what its file says, and what its registry entry says where the file does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from inference_server.detection.geometry import Layout, Resize
from inference_server.detection.metadata import MAX_SIDE, read_class_names, read_size
from inference_server.detection.pixels import PLAIN, Colors, ConstantInput, PictureInput, Pixels
from inference_server.detection.settings import NOTHING_SAID, SECTION, Settings
from inference_server.detection.signature import FLOATS, GraphSignature, TensorSpec
from inference_server.errors import ModelRefused

# More frames than that at once are an error in the file rather than a wish.
MAX_BATCH = 256


@dataclass(frozen=True, slots=True)
class Description:
    """What is known of a model before it is run. What `settings` say goes before what the file says."""

    signature: GraphSignature
    settings: Settings = NOTHING_SAID

    @property
    def declared(self) -> bool:
        """Whether the registry entry names the family, so that less has to follow from the file."""
        return self.settings.family is not None

    @property
    def tasked(self) -> bool:
        """Whether it is said what the model does, so that dimensions the file leaves open may be what they must."""
        return self.declared or self.settings.task is not None or "task" in self.signature.metadata

    def class_names(self) -> tuple[str, ...] | None:
        """The classes in the order of their ids; None where neither entry nor file names them. Raises ModelRefused."""
        return self.settings.class_names or read_class_names(self.signature.metadata)

    def output(self, *names: str) -> TensorSpec:
        """The one output, or with `names` the one that is called so. Raises ModelRefused."""
        found = [output for output in self.signature.outputs if not names or output.name in names]
        if len(found) != 1 or (not names and len(self.signature.outputs) != 1):
            wanted = f"an output {' or '.join(names)}" if names else "one output"
            raise ModelRefused(f"expected {wanted}, found {len(found)}")
        return found[0]

    def picture_input(
        self,
        name: str | None = None,
        *,
        resize: Resize = Resize.LETTERBOX,
        pixels: Pixels = PLAIN,
        constants: Sequence[ConstantInput] = (),
    ) -> PictureInput:
        """The input that takes pictures: the only one that is not among `constants`, called `name` if that is given.

        `resize` and `pixels` are the family's; what the entry declares goes before them. Raises ModelRefused.
        """
        spec = self._only_input(name, {constant.name for constant in constants})
        channels_last, channels = _channels(spec)
        batch, height, width = _sizes(spec, channels_last=channels_last)
        if height is None or width is None:
            fallback = self._declared_size(spec)
            height, width = height or fallback[0], width or fallback[1]
        if max(height, width) > MAX_SIDE or (batch or 1) > MAX_BATCH:
            raise ModelRefused(f"input {spec}: expected sides of at most {MAX_SIDE} and a batch of at most {MAX_BATCH}")
        return PictureInput(
            spec.name,
            spec.dtype,
            channels_last,
            batch,
            self._layout(spec, height, width, resize),
            self._pixels(spec, pixels, channels),
            tuple(constants),
        )

    def _only_input(self, name: str | None, constants: set[str]) -> TensorSpec:
        inputs = [spec for spec in self.signature.inputs if spec.name not in constants]
        if len(inputs) != 1 or len(inputs) + len(constants) != len(self.signature.inputs):
            wanted = "one input" if not constants else f"inputs for pictures and {', '.join(sorted(constants))}"
            raise ModelRefused(f"expected {wanted}, found {len(self.signature.inputs)}")
        if name not in (None, inputs[0].name):
            raise ModelRefused(f"expected an input {name}, found {inputs[0]}")
        return inputs[0]

    def _declared_size(self, spec: TensorSpec) -> tuple[int, int]:
        size = self.settings.input_size or read_size(self.signature.metadata)
        if size is None:
            raise ModelRefused(
                f"input {spec}: height and width are not fixed, and the file has no metadata key 'imgsz' that says what"
                f" they were in training; export with a fixed size, or set {SECTION}.input_size to [height, width]"
            )
        return size

    def _layout(self, spec: TensorSpec, height: int, width: int, resize: Resize) -> Layout:
        size = self.settings.input_size
        if size not in (None, (height, width)):
            raise ModelRefused(
                f"{SECTION}.input_size: expected {[height, width]} as input {spec} says, got {list(size)}"
            )
        layout = Layout(width, height, self.settings.resize or resize)
        return layout if self.settings.fill is None else replace(layout, fill=self.settings.fill)

    def _pixels(self, spec: TensorSpec, pixels: Pixels, channels: int) -> Pixels:
        said = self.settings
        usual = Colors.GRAY if channels == 1 else Colors.RGB if pixels.colors is Colors.GRAY else pixels.colors
        colors = said.color_order or usual
        if colors.channels != channels:
            raise ModelRefused(f"{SECTION}.color_order: input {spec} has {channels} channels, got {colors.value}")
        mean, std = (_per_channel(one, channels) for one in (pixels.mean, pixels.std))
        try:
            return Pixels(colors, said.scale or pixels.scale, said.mean or mean, said.std or std)
        except ValueError as error:
            raise ModelRefused(f"{SECTION}.{error}") from None


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """A family's numbers for three channels as one, where the model takes one."""
    return values if len(values) <= channels else (sum(values) / len(values),)


def _channels(spec: TensorSpec) -> tuple[bool, int]:
    """Whether the channels come last, and how many they are."""
    if spec.dtype not in FLOATS:
        raise ModelRefused(f"input {spec}: expected float32 or float16")
    if spec.shape is not None and len(spec.shape) == 4:
        for channels in (3, 1):
            for axis in (1, 3):
                if spec.shape[axis] == channels:
                    return axis == 3, channels
    raise ModelRefused(
        f"input {spec}: expected (batch, channels, height, width) or (batch, height, width, channels), 3 or 1 channels"
    )


def _sizes(spec: TensorSpec, *, channels_last: bool) -> tuple[int | None, int | None, int | None]:
    """Batch, height and width."""
    batch, one, two, three = spec.shape or ()
    return (batch, one, two) if channels_last else (batch, two, three)
