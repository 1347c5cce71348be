"""The words of a run: every parameter of the method, once, with its default and source.

The classes here are what stages read (`PSR_STAGE_CONFIG`) and what `psr_operator.api` embeds under `spec`.
Every field is marked by the function that declares it:

- `method`: part of what is computed. Immutable in the API, part of a stage's digest.
- `given`: the URI of an input. Immutable in the API; the digest holds the input's content, not its address.
- `operation`: how the work is carried out (endpoints, resources, concurrency). Mutable, never in the digest.

Sources are written as `Paper §4` (a section of arXiv:2503.03746) or as "ours" where the paper is silent.
What does not belong here: reading files, clients, defaults that depend on the machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic.alias_generators import to_camel

MANY = 10**9
"""Bound of whole numbers that have no other: an apiserver's integers have an end."""

MARK = "x-psr-field"
"""Key in a field's JSON schema that holds `method`, `given` or `operation`."""


def method(default: Any = ..., **kwargs: Any) -> Any:
    """Declare a field that decides what is computed: immutable, part of the digest."""
    return Field(default, json_schema_extra={MARK: "method"}, **kwargs)


def given(default: Any = ..., **kwargs: Any) -> Any:
    """Declare the URI of an input: immutable; the digest holds its content instead of its address."""
    return Field(default, json_schema_extra={MARK: "given"}, **kwargs)


def operation(default: Any = ..., **kwargs: Any) -> Any:
    """Declare a field that decides how the work is carried out: mutable, never in the digest."""
    return Field(default, json_schema_extra={MARK: "operation"}, **kwargs)


class Words(BaseModel):
    """Base of everything a manifest or a stage configuration is made of: camelCase outside, closed, frozen."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )

    def to_json(self) -> dict[str, Any]:
        """The object as JSON values under its camelCase names, unset optionals left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


URI = r"^(file:///|s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/).+$"
Uri = Annotated[str, StringConstraints(pattern=URI, max_length=1024)]
"""`file:///…` or `s3://bucket/…`."""
Text = Annotated[str, StringConstraints(max_length=16384)]
Name = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=40)]

ChildName = Annotated[str, StringConstraints(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=52)]
"""Name of an object that another one makes: longer than a user's, as it begins with the parent's."""


# --- models and prompts ------------------------------------------------------------------------------------


class ModelSource(Words):
    """A model to start from: a checkpoint of ours or any Hugging Face causal-LM folder."""

    uri: Uri = given(description="Folder of the model: a checkpoint made by a stage, or a Hugging Face folder.")
    weights: Literal["Pretrained", "Random"] = method(
        "Pretrained",
        description="Random: the folder holds configuration and tokenizer only; SFT starts from fresh weights.",
    )
    chat_template: Text | None = method(
        None, description="Chat template (Jinja) for a tokenizer that has none. One template serves every stage."
    )


class Prompts(Words):
    """The texts that a model sees. Placeholders are replaced once each, literally. Paper Fig. 4 and 5."""

    solve: Text | None = method(None, description="Solver prompt with {problem}. Unset: the paper's Figure 4.")
    judge: Text | None = method(
        None,
        description="Judge prompt with {Question and Partial Reasoning Steps}, {Step A} and {Step B}. "
        "Unset: the paper's Figure 5.",
    )
    system_message: Text | None = method(
        None, description="System message. Unset: none is sent, so the chat template's own applies."
    )


# --- search and judge --------------------------------------------------------------------------------------


class JudgeConfig(Words):
    """Self-judging of candidate steps. Paper §3.3; orders, decoding and unusable verdicts are ours."""

    orders: Literal["Both", "Single"] = method(
        "Both",
        description="Both: O(i, j) is the call with i in slot A, all w(w-1) ordered pairs are asked. "
        "Single: one call for i < j and O(j, i) = 1 - O(i, j). Ours.",
    )
    temperature: float = method(0.0, ge=0, le=2, description="Sampling temperature of verdicts. Ours.")
    top_p: float = method(1.0, gt=0, le=1, description="Nucleus of verdict sampling. Ours.")
    max_tokens: int = method(1024, ge=1, le=32768, description="Tokens a judgement may take. Ours.")
    control: Literal["None", "Random", "Inverted"] = method(
        "None",
        description="Control experiments: Random replaces each verdict by a seeded coin, Inverted swaps A and B. "
        "None: the model's own verdicts count.",
    )


class SearchConfig(Words):
    """Step search with self-judging: candidates, scores, roll-back. Paper §3.3."""

    width: int = method(6, ge=2, le=64, description="Candidates per step, w. Paper §4.")
    max_iterations: int = method(
        20, ge=1, le=1000, description="Sampled levels per problem, rolled-back ones included (ours). Paper §4."
    )
    temperature: float = method(0.5, gt=0, le=2, description="Sampling temperature of candidates. Paper §4.")
    top_p: float = method(0.95, gt=0, le=1, description="Nucleus of candidate sampling. Paper §4.")
    max_step_tokens: int = method(512, ge=1, le=32768, description="Tokens one step may take. Ours.")
    max_rollbacks: int = method(
        3, ge=0, le=100, description="Ties a level may have within a problem before the problem ends. Ours."
    )
    accept_unanimous: bool = method(
        False,
        description="Keep a step without a pair when all candidates are the same text (the paper rolls back). "
        "A declared deviation from the paper (§3.3).",
    )
    seeded_requests: bool = method(
        True,
        description="Send a seed with every request. On CUDA this forces slow per-row sampling: set false there.",
    )
    concurrency: int = operation(64, ge=1, le=4096, description="Problems searched at the same time per shard.")


class Questions(Words):
    """Which problems a round takes: a window of one seeded permutation of the problem file. Paper §4."""

    offset: int = method(0, ge=0, le=MANY, description="Problems that earlier rounds have taken.")
    count: int = method(ge=1, le=1_000_000, description="Problems for this round. Paper §4: 400, 800, 1,200.")
    allow_reuse: bool = method(False, description="Wrap around when the file has too few problems.")


# --- training ----------------------------------------------------------------------------------------------


class OptimizerConfig(Words):
    """AdamW with clipping and a schedule. The paper gives learning rate, batch and epochs (§4); the rest is ours."""

    beta1: float = method(0.9, ge=0, lt=1, description="AdamW beta 1. Ours.")
    beta2: float = method(0.999, ge=0, lt=1, description="AdamW beta 2. Ours.")
    weight_decay: float = method(0.0, ge=0, le=1, description="AdamW weight decay. Ours.")
    max_grad_norm: float = method(1.0, gt=0, le=1000, description="Clip the global gradient norm to this. Ours.")
    schedule: Literal["Cosine", "Linear", "Constant"] = method(
        "Cosine", description="Shape of the learning rate after warm-up, down to zero. Ours."
    )
    warmup_ratio: float = method(0.03, ge=0, le=1, description="Share of updates that warm up. Ours.")


class TrainingConfig(Words):
    """What SFT and step-DPO share."""

    optimizer: OptimizerConfig = method(OptimizerConfig(), description="Optimizer and schedule.")
    max_length: int = method(4096, ge=8, le=1_048_576, description="Tokens of one sequence. Longer: error. Ours.")
    precision: Literal["bfloat16", "float32"] = method(
        "bfloat16", description="Autocast dtype. Master weights are float32 always. Ours."
    )
    checkpoint_dtype: Literal["bfloat16", "float32"] = method(
        "bfloat16", description="Dtype of the serving copy; the master copy is float32. Ours."
    )
    micro_batch: int = operation(8, ge=1, le=4096, description="Sequences (SFT) or pairs (DPO) in one pass.")
    save_steps: int = operation(
        100,
        ge=1,
        le=MANY,
        description="Updates between resumable states; an interrupted job goes on from the last one.",
    )


class SFTConfig(TrainingConfig):
    """Supervised fine-tuning M0 -> M1 on IFT and EFT records. Paper §3.2, §4."""

    epochs: int = method(3, ge=1, le=100, description="Passes over the data. Paper §4.")
    learning_rate: float = method(1e-6, gt=0, le=1, description="Peak learning rate. Paper §4.")
    global_batch: int = method(32, ge=1, le=65536, description="Records per update over all ranks. Paper §4.")
    mixing: Literal["Shuffled", "Sequential"] = method(
        "Shuffled", description="IFT and EFT concatenated and shuffled, or IFT first. Ours."
    )


class StepDPOConfig(TrainingConfig):
    """Step-wise DPO M(i) -> M(i+1). Paper §3.4, eqs. 6-8."""

    beta: float = method(0.1, gt=0, le=100, description="Deviation from the reference, eq. 6-7. Ours.")
    nll_weight: float = method(
        0.0, ge=0, le=100, description="Weight of -log pi(chosen)/|chosen|, averaged over pairs. Ours, off."
    )
    epochs: int = method(1, ge=1, le=100, description="Passes over the pairs. Paper §4.")
    learning_rate: float = method(5e-7, gt=0, le=1, description="Peak learning rate. Paper §4.")
    global_batch: int = method(32, ge=1, le=65536, description="Pairs per update over all ranks. Paper §4.")


# --- evaluation --------------------------------------------------------------------------------------------


class EvaluationConfig(Words):
    """Greedy, zero-shot accuracy on a problem file. Paper §4."""

    max_tokens: int = method(2048, ge=1, le=32768, description="New tokens per answer. Ours, as Qwen2.5-Math.")
    limit: int | None = method(None, ge=1, le=MANY, description="Only the first problems of the file. Unset: all.")
    grading_seconds: int = operation(10, ge=1, le=600, description="Time limit of grading one answer.")
    concurrency: int = operation(256, ge=1, le=4096, description="Problems answered at the same time.")


# --- serving, storage, hardware ----------------------------------------------------------------------------


class EngineConfig(Words):
    """How vLLM serves a model. Nothing here changes what is asked of it."""

    dtype: Literal["bfloat16", "float32", "float16"] = operation(
        "bfloat16", description="Dtype of the weights in the engine; explicit, as fingerprints depend on it."
    )
    max_model_len: int | None = operation(
        None, ge=16, le=MANY, description="Context in tokens. Unset: the model's own."
    )
    tensor_parallel: int = operation(1, ge=1, le=64, description="Devices that share one replica.")
    block_size: int | None = operation(
        None, ge=1, le=65536, description="Tokens per cache block. Unset: 32 on CPU (its default hides short prefixes)."
    )
    gpu_memory_utilization: float = operation(0.9, gt=0, le=1, description="Share of device memory for vLLM.")
    cpu_cache_gib: int = operation(1, ge=1, le=65536, description="KV cache in GiB on CPU.")
    enforce_eager: bool = operation(False, description="Do not compile: quicker start, slower tokens.")
    weights: Literal["Download", "Stream"] = operation(
        "Download",
        description="Download: bring the weights to the pod's disk and verify every byte, then load them. Stream: vLLM "
        "reads them from the storage itself (runai_streamer); the fingerprint tells whether the right ones came. A "
        "model without fingerprint is not streamed, and a new model is always a restart.",
    )
    swap: Literal["Auto", "Never"] = operation(
        "Auto", description="Auto: exchange weights in place where a check can prove it; Never: always restart."
    )
    extra_args: Annotated[list[Annotated[str, StringConstraints(max_length=256)]], Field(max_length=32)] = operation(
        [], description="Further vLLM arguments, as on its command line."
    )


class StorageAccess(Words):
    """How to reach an S3 store. Credentials come from the environment or the pod's identity, never from here."""

    endpoint: Annotated[str, StringConstraints(pattern=r"^https?://", max_length=256)] | None = operation(
        None, description="S3 endpoint URL. Unset: AWS."
    )
    region: Annotated[str, StringConstraints(max_length=64)] | None = operation(None, description="S3 region.")
    path_style: bool | None = operation(
        None,
        description="True: the bucket stands in the path of a URL; false: in its host name. Unset: in the path where "
        "an endpoint is given.",
    )


class Owner(Words):
    """Who may write under a storage prefix: the first writer's uid stands in `owner.json`."""

    uri: Uri = operation(description="The prefix that is owned.")
    uid: Annotated[str, StringConstraints(max_length=64)] = operation(description="uid of the owning object.")
    name: Annotated[str, StringConstraints(max_length=128)] = operation(description="namespace/name, for messages.")


class Endpoint(Words):
    """A PolicyServer as its clients see it."""

    urls: Annotated[list[Annotated[str, StringConstraints(max_length=256)]], Field(min_length=1, max_length=64)] = (
        operation(description="Base URL of each replica; a problem always goes to the same one.")
    )
    model_digest: Annotated[str, StringConstraints(max_length=80)] | None = operation(
        None, description="Digest of the model that must answer. Unset: taken from the model's manifest."
    )
    ready_seconds: int = operation(1800, ge=1, le=MANY, description="How long to wait for a server that is not ready.")


# --- stage configurations ----------------------------------------------------------------------------------


class StageConfig(Words):
    """What every stage is given besides its own fields."""

    output: Uri = operation(description="Where the artefact goes.")
    storage: StorageAccess = operation(StorageAccess(), description="How to reach the storage.")
    owner: Owner | None = operation(None, description="Claim on the storage prefix.")


class SFTMethod(Words):
    """Fine-tune M0 to M1 on IFT and EFT records. Paper §3.2, §4."""

    model: ModelSource = method(description="The base model, M0.")
    ift: Uri | None = given(None, description="IFT records (JSON lines: problem, steps): problems solved in steps.")
    eft: Uri | None = given(
        None, description="EFT records (JSON lines: problem, steps, a, b, judgement): judgements of candidate steps."
    )
    prompts: Prompts = method(Prompts(), description="Prompts of both skills.")
    training: SFTConfig = method(SFTConfig(), description="Fine-tuning.")
    seed: int = method(0, ge=0, lt=2**31, description="Seed of initial weights and of the order of records.")

    @model_validator(mode="after")
    def _has_data(self) -> Self:
        if self.ift is None and self.eft is None:
            raise ValueError("give ift, eft or both: there is nothing to train on")
        return self


class SFTStage(SFTMethod, StageConfig):
    """`sft`: M0 -> M1. Output: a checkpoint."""


class SearchMethod(Words):
    """Search, judge, pair: M(i) -> preference pairs. Paper §3.3."""

    model: ModelSource = method(description="The policy M(i), which is its own judge.")
    problems: Uri = given(description="Problem file (JSON lines: id, problem). Answers in it are not read.")
    questions: Questions = method(description="The window of problems of this round.")
    prompts: Prompts = method(Prompts(), description="Prompts of both skills.")
    search: SearchConfig = method(SearchConfig(), description="Step search.")
    judge: JudgeConfig = method(JudgeConfig(), description="Self-judging.")
    iteration: int = method(1, ge=1, le=MANY, description="Number of the round, part of every seed.")
    seed: int = method(0, ge=0, lt=2**31, description="Seed of the run.")


class SearchStage(SearchMethod, StageConfig):
    """`search`: one shard of preference generation. Output: a part of a pair set."""

    shard: int = method(0, ge=0, description="Index of this shard; problems go round-robin.")
    shards: int = method(1, ge=1, le=4096, description="Number of shards.")
    server: Endpoint = operation(description="Server of the policy.")


class MergeStage(StageConfig):
    """`merge`: verify the shards of a search and publish the pair set."""

    parts: Annotated[list[Uri], Field(min_length=1, max_length=4096)] = given(
        description="The shards of the search, in order."
    )
    iteration: int = method(1, ge=1, le=MANY, description="Number of the round.")


class StepDPOMethod(Words):
    """Train M(i) to M(i+1) on preference pairs by step-wise DPO. Paper §3.4."""

    model: ModelSource = method(description="The policy to train, M(i).")
    reference: ModelSource | None = method(None, description="Reference policy. Unset: the policy itself (ours).")
    pairs: Uri = given(description="Pair set: an artefact of PreferenceGeneration, or a JSON-lines file of pairs.")
    training: StepDPOConfig = method(StepDPOConfig(), description="Step-wise DPO.")
    seed: int = method(0, ge=0, lt=2**31, description="Seed of the order of pairs.")


class StepDPOStage(StepDPOMethod, StageConfig):
    """`step-dpo`: M(i) -> M(i+1). Output: a checkpoint."""


class EvaluateMethod(Words):
    """Greedy, zero-shot accuracy of a model on a problem file. Paper §4."""

    model: ModelSource = method(description="The model.")
    problems: Uri = given(description="Problem file with answers (JSON lines: problem, answer).")
    prompts: Prompts = method(Prompts(), description="The solver prompt.")
    evaluation: EvaluationConfig = method(EvaluationConfig(), description="Decoding and grading.")


class EvaluateStage(EvaluateMethod, StageConfig):
    """`evaluate`: accuracy, predictions kept."""

    server: Endpoint = operation(description="Server of the model.")


class ReportedEvaluation(Words):
    """One evaluation of one model."""

    name: Name = method(description="Name of the evaluation.")
    uri: Uri = given(description="Its artefact.")


class ReportedModel(Words):
    """One model of a run, as the report finds it. Folders that hold no artefact yet are left out by the caller."""

    name: Annotated[str, StringConstraints(pattern=r"^M[0-9]+$", max_length=8)] = method(description="M1, M2, …")
    checkpoint: Uri = given(description="The checkpoint.")
    pairs: Uri | None = given(None, description="The pair set that this model generated.")
    evaluations: list[ReportedEvaluation] = method([], description="Evaluations of this model.")


class ReportStage(StageConfig):
    """`report`: one self-contained HTML file and `results.json` over a run."""

    title: Annotated[str, StringConstraints(max_length=200)] = method(description="Heading.")
    note: Text | None = method(None, description="A paragraph on top: what a reader must know about this run.")
    models: list[ReportedModel] = method(description="M1 … Mn in order.")
    step_oracle: Literal["None", "Arithmetic"] = method(
        "None",
        description="Judge the judge on the policy's own candidates after the fact. Arithmetic: a step is right "
        "when every equality of integers in it holds.",
    )
    seed: int = method(0, ge=0, lt=2**31, description="Seed of the run, to be shown.")


class PrunedModel(Words):
    """A checkpoint whose weights are to go."""

    uri: Uri = given(description="The checkpoint, below the prefix that is claimed.")
    digest: Annotated[str, StringConstraints(max_length=80)] = method(
        description="Its digest; the weights of any other artefact that stands there are left alone."
    )


class PruneStage(StageConfig):
    """`prune`: remove the weights of checkpoints that nobody reads any more. Output: a list of what was removed."""

    models: Annotated[list[PrunedModel], Field(min_length=1, max_length=64)] = method(description="The checkpoints.")
    retention: Literal["Last", "Best"] = operation(description="The rule that lets them go, for those who miss them.")
    owner: Owner = operation(description="Claim on the prefix that the checkpoints lie below.")

    @model_validator(mode="after")
    def _below_the_claim(self) -> Self:
        for model in self.models:
            rest = model.uri.removeprefix(self.owner.uri.rstrip("/") + "/")
            if rest == model.uri or {"", ".", ".."} & set(unquote(rest).split("/")):
                raise ValueError(f"{model.uri} does not lie below {self.owner.uri}; nothing outside of it is removed")
        return self


class ServeStage(Words):
    """`serve`: a server pod. It makes no artefact; it answers for one model at a time."""

    model: ModelSource = operation(description="The model to start with.")
    engine: EngineConfig = operation(EngineConfig(), description="vLLM.")
    storage: StorageAccess = operation(StorageAccess(), description="How to reach the storage.")
    host: Annotated[str, StringConstraints(max_length=64)] = operation("127.0.0.1", description="Address to bind.")
    port: int = operation(8000, ge=1, le=65534, description="Port of the OpenAI API; the next one is for control.")
    scratch: Annotated[str, StringConstraints(max_length=1024)] = operation(description="Folder for checkpoints.")


# --- digest ------------------------------------------------------------------------------------------------


def method_fields(value: Any) -> Any:
    """What of a configuration decides the result: JSON values of its method fields, nested, without URIs."""
    if isinstance(value, BaseModel):
        kept = {}
        for name, field in type(value).model_fields.items():
            extra = field.json_schema_extra
            mark = extra.get(MARK) if isinstance(extra, Mapping) else None
            if mark is None:
                raise TypeError(f"{type(value).__name__}.{name} is marked neither method, given nor operation")
            if mark == "method":
                kept[field.alias or name] = method_fields(getattr(value, name))
        return kept
    if isinstance(value, Mapping):
        return {str(key): method_fields(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [method_fields(item) for item in value]
    return value


def given_uris(value: Any, at: str = "") -> dict[str, str]:
    """Every input of a configuration: dotted field path -> URI. `operation` fields are not inputs."""
    found: dict[str, str] = {}
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            extra = field.json_schema_extra
            mark = extra.get(MARK) if isinstance(extra, Mapping) else None
            path = f"{at}.{field.alias or name}" if at else (field.alias or name)
            item = getattr(value, name)
            if mark == "given" and isinstance(item, list):
                found |= {f"{path}[{index}]": uri for index, uri in enumerate(item)}
            elif mark == "given" and item is not None:
                found[path] = item
            elif mark == "method":
                found |= given_uris(item, path)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            found |= given_uris(item, f"{at}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            found |= given_uris(item, f"{at}[{index}]")
    return found


def stage_digest(stage: str, schema: int, config: StageConfig, inputs: Mapping[str, str]) -> str:
    """Identity of a stage's result: sha256 over its name, schema version, method fields and inputs' digests.

    Args:
        stage: name of the stage, as on the command line.
        schema: version of what the stage computes; raised when its meaning changes.
        config: the configuration.
        inputs: digest of each input, by the names that `given_uris` gives them.

    Returns:
        `sha256:` and 64 hexadecimal digits.
    """
    document = {"stage": stage, "schema": schema, "method": method_fields(config), "inputs": dict(inputs)}
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
