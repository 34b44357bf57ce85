"""Language models: jobs hold the labels that the loss compares scores with, whatever the model's class is called."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.unit.trainer.fakes import FakePool
from tests.unit.trainer.models import Made
from trainer import Tunneller
from trainer.errors import CaptureError
from trainer.samples.reservoir import Reservoir, Rows
from trainer.snapshots.capture import Captured, Plan, look

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

WORDS, PLACES, SENTENCES, WIDTH = 12, 8, 64, 16
PLAIN = {"vocab_size": WORDS, "tie_word_embeddings": False, "pad_token_id": 0}
LLAMA = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
BERT = LLAMA | {"max_position_embeddings": PLACES, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
GPT2 = {"n_positions": PLACES, "n_embd": WIDTH, "n_layer": 1, "n_head": 2, "num_labels": 1, "eos_token_id": 0}
HALVES = {
    f"{part}_{name}": value
    for part in ("encoder", "decoder")
    for name, value in (("layers", 1), ("attention_heads", 2), ("ffn_dim", 32))
}
BART = {"d_model": WIDTH, "max_position_embeddings": PLACES, "bos_token_id": 0, "eos_token_id": 0} | HALVES
DECODER = BART | {"is_decoder": True, "is_encoder_decoder": False, "decoder_start_token_id": 0}
T5 = {"d_model": WIDTH, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0}
MIXTRAL = LLAMA | {"num_key_value_heads": 2, "num_local_experts": 2, "output_router_logits": True}


def made(name: str, config: str, **options: Any) -> nn.Module:
    """A tiny model of a class of Transformers, new, without dropout that stays."""
    torch.manual_seed(0)
    model: nn.Module = getattr(transformers, name)(getattr(transformers, config)(**(PLAIN | options)))
    return model


def renamed(name: str, config: str, **options: Any) -> nn.Module:
    """The same in a class of one's own, whose name says nothing."""
    torch.manual_seed(0)
    kind = type("Talker", (getattr(transformers, name),), {})
    model: nn.Module = kind(getattr(transformers, config)(**(PLAIN | options)))
    return model


class Around(nn.Module):
    """Hands everything on to a model inside."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, **batch: Any) -> Any:
        return self.inner(**batch)


def sentences(count: int = SENTENCES, seed: int = 1) -> Tensor:
    """Words at random [n, T]; 0 is left to padding."""
    return torch.randint(1, WORDS, (count, PLACES), generator=torch.Generator().manual_seed(seed))


def kept(batch: Mapping[str, Tensor]) -> Rows:
    """All of a batch, as the loop draws it."""
    reservoir = Reservoir()
    reservoir.observe(dict(batch))
    return reservoir.rows(SENTENCES, np.random.default_rng(0))


def taken(model: nn.Module, rows: Rows) -> Captured:
    """What a job on the last layer would hold."""
    last = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    found = look(
        model,
        rows,
        Plan(samples=SENTENCES * PLACES),
        layers=last,
        radius_of=lambda _, mean: 0.25 * mean,
        budget_s=60.0,
        generator=np.random.default_rng(0),
    )
    finals = [captured for captured in found.captured.values() if not captured.block.tail]
    assert finals, found.refused
    return finals[-1]


def loss_of(captured: Captured) -> float:
    """The cross-entropy of the live scores and the targets of a job."""
    scores, targets = torch.from_numpy(captured.scores), torch.from_numpy(captured.whole.targets)
    return float(nn.functional.cross_entropy(scores, targets.long()))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "Llama": lambda: made("LlamaForCausalLM", "LlamaConfig", **LLAMA),
    "Llama, by another name": lambda: renamed("LlamaForCausalLM", "LlamaConfig", **LLAMA),
    "Llama, inside a module": lambda: Around(made("LlamaForCausalLM", "LlamaConfig", **LLAMA)),
    "GPT-2": lambda: made("GPT2LMHeadModel", "GPT2Config", **GPT2),
    "GPT-2, by another name": lambda: renamed("GPT2LMHeadModel", "GPT2Config", **GPT2),
    "GPT-2 with two heads": lambda: made("GPT2DoubleHeadsModel", "GPT2Config", **GPT2),
    "BERT that generates": lambda: made("BertGenerationDecoder", "BertGenerationConfig", is_decoder=True, **BERT),
    "BERT that decodes": lambda: made("BertLMHeadModel", "BertConfig", is_decoder=True, **BERT),
    "CTRL": lambda: made("CTRLLMHeadModel", "CTRLConfig", dff=32, **GPT2),
    "BART's decoder": lambda: made("BartForCausalLM", "BartConfig", **DECODER),
    "TrOCR's decoder": lambda: made("TrOCRForCausalLM", "TrOCRConfig", use_cache=False, **DECODER),
    "XLNet": lambda: made("XLNetLMHeadModel", "XLNetConfig", d_model=WIDTH, n_layer=1, n_head=2, d_inner=32),
    "XLM": lambda: made("XLMWithLMHeadModel", "XLMConfig", emb_dim=WIDTH, n_layers=1, n_heads=2, n_words=WORDS),
    "BERT that fills in": lambda: made("BertForMaskedLM", "BertConfig", **BERT),
    "BERT that tags": lambda: made("BertForTokenClassification", "BertConfig", num_labels=WORDS, **BERT),
}


def shifted(labels: Tensor, by: int = 1) -> Tensor:
    """The labels so many places further; there is none behind the end."""
    return torch.cat([labels[:, by:], torch.full((len(labels), by), -100)], dim=1)


@pytest.mark.parametrize("name", MODELS)
def test_jobs_are_about_the_models_own_loss(name: str) -> None:
    """With labels that are neither the inputs nor the next ones, a job's targets and scores give that loss."""
    model, batch = MODELS[name](), {"input_ids": sentences(), "labels": sentences(seed=2)}
    found = taken(model, kept(batch))
    with torch.no_grad():
        assert loss_of(found) == pytest.approx(float(model.eval()(**batch).loss), abs=1e-4)


@pytest.mark.parametrize(
    ("name", "config", "options"),
    [
        ("T5ForConditionalGeneration", "T5Config", T5),
        ("BartForConditionalGeneration", "BartConfig", BART | {"decoder_start_token_id": 0}),
    ],
)
def test_encoder_decoders_with_inputs_for_both_are_read_as_they_are(
    name: str, config: str, options: dict[str, Any]
) -> None:
    """As DataCollatorForSeq2Seq makes batches."""
    model, labels = made(name, config, **options), sentences(seed=2)
    model.lm_head = nn.Linear(WIDTH, WORDS)  # T5's is tied, whatever the configuration says
    batch = {"input_ids": sentences(), "labels": labels, "decoder_input_ids": labels.roll(1, dims=1)}
    found = taken(model, kept(batch))
    with torch.no_grad():
        assert loss_of(found) == pytest.approx(float(model.eval()(**batch).loss), abs=1e-4)


@pytest.mark.parametrize("kind", ["BartForConditionalGeneration", "MBartForConditionalGeneration"])
def test_labels_that_are_inputs_are_named(kind: str) -> None:
    """Without `decoder_input_ids` the model makes them from labels, or from something else where it gets none."""
    model = made(kind, kind.replace("ForConditionalGeneration", "Config"), **BART, decoder_start_token_id=0)
    with pytest.raises(CaptureError, match="decoder_input_ids"):
        taken(model, kept({"input_ids": sentences(), "labels": sentences(seed=2)}))


def test_what_else_is_in_the_loss_does_not_matter() -> None:
    """A mixture of experts adds a loss of its router's, others smooth labels or sum up."""
    model = made("MixtralForCausalLM", "MixtralConfig", router_aux_loss_coef=1.0, **MIXTRAL)
    batch = {"input_ids": sentences(), "labels": sentences(seed=2)}
    assert taken(model, kept(batch)).reader.shifted
    for options in ({"label_smoothing": 0.3}, {"reduction": "sum"}):
        for lag in (0, 1):  # as nanoGPT does, by a pair
            assert taken(WithLoss(lag, **options), kept(batch)).reader.shifted == (lag == 1)


class WithLoss(nn.Module):
    """Scores each place by its word, with a loss that compares a position with the label so many places further."""

    def __init__(self, lag: int, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.last = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WORDS)
        self.lag, self.options = lag, options

    def forward(self, input_ids: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        scores = self.last(self.words(input_ids))
        return scores, None if targets is None else lagging(scores, targets, self.lag, **self.options)


def lagging(scores: Tensor, labels: Tensor, lag: int, **options: Any) -> Tensor:
    """The cross-entropy of scores and the labels so many places further."""
    last = scores.shape[1]
    scores, labels = scores[:, max(0, -lag) : last - max(0, lag)], labels[:, max(0, lag) : last + min(0, lag)]
    return nn.functional.cross_entropy(scores.flatten(0, 1), labels.flatten(), **options)


@pytest.mark.parametrize("lag", [-1, 2, 4])
def test_an_own_loss_of_other_places_is_named(lag: int) -> None:
    """Labels two places further, or of the place before: neither way to read them would be right."""
    with pytest.raises(CaptureError, match="the model's own loss compares"):
        taken(WithLoss(lag), kept({"input_ids": sentences(), "labels": sentences(seed=2)}))


class Choosy(WithLoss):
    """Takes no label that is none of a few: on a GPU one that has no embedding would end the program."""

    def forward(self, input_ids: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        if targets is not None and not bool(torch.isin(targets, torch.tensor([3, 7, 8])).all()):
            raise IndexError("index out of range")
        return super().forward(input_ids, targets)


@pytest.mark.parametrize("lag", [0, 1])
def test_a_loss_is_asked_with_labels_that_occur(lag: int) -> None:
    """Whatever else there are scores of."""
    labels = torch.tensor([3, 7, 8])[sentences(seed=2) % 3]
    assert taken(Choosy(lag), kept({"input_ids": sentences(), "labels": labels})).reader.shifted == (lag == 1)


def test_scores_that_are_others_each_time_are_called_that() -> None:
    """Noise in evaluation mode is no sign of inputs made from labels."""
    model = WithLoss(1)
    model.words.register_forward_hook(lambda module, args, output: output + torch.rand_like(output))
    with pytest.raises(AssertionError, match="other values each time"):
        taken(model, kept({"input_ids": sentences(), "labels": sentences(seed=2)}))


def talker() -> nn.Module:
    """A language model without a loss of its own, by the present word alone."""
    torch.manual_seed(0)
    return Made(
        lambda net, x: net.last(torch.relu(net.mixed(net.words(x)))),
        words=nn.Embedding(WORDS, WIDTH),
        mixed=nn.Linear(WIDTH, 32),
        last=nn.Linear(32, WORDS),
    )


def trained(model: nn.Module, inputs: Tensor, labels: Tensor, lag: int, steps: int = 200) -> nn.Module:
    """The model after a loop whose own loss compares scores with labels so many places further."""
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        output = model(inputs)
        optimizer.zero_grad()
        lagging(getattr(output, "logits", output), labels, lag).backward()
        optimizer.step()
    return model


def counted(count: int = SENTENCES) -> Tensor:
    """Sentences in which a word says the next one and the one before [n, T]."""
    first = torch.randint(0, WORDS, (count, 1), generator=torch.Generator().manual_seed(3))
    return (first + 5 * torch.arange(PLACES)) % WORDS


def test_labels_that_are_the_inputs_are_those_of_the_next() -> None:
    """Before any training: of a model without a loss nothing else would make sense."""
    words = sentences()
    assert taken(talker(), kept({"x": words, "labels": words})).reader.shifted
    padded = words.masked_fill(torch.arange(PLACES) > 5, -100)
    assert taken(talker(), kept({"x": words, "labels": padded})).reader.shifted


def test_labels_that_are_the_next_inputs_are_read_as_they_are() -> None:
    """Also beside a model whose own loss would shift them once more: the loop's does not."""
    words = sentences()
    assert not taken(talker(), kept({"x": words, "labels": shifted(words)})).reader.shifted
    model = MODELS["Llama"]()
    assert not taken(model, kept({"input_ids": words, "labels": shifted(words)})).reader.shifted


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("tagged", [False, True])
def test_what_a_trained_model_fits_is_what_it_is_trained_on(lag: int, tagged: bool) -> None:
    """Where no own loss tells: loops shift labels that have nothing to do with inputs, or train a copy of inputs."""
    words = counted()
    labels = (7 * words + 2) % WORDS if tagged else words
    model = trained(talker(), words, labels, lag)
    assert taken(model, kept({"x": words, "labels": labels})).reader.shifted == (lag == 1)


def test_sentences_whose_words_stay_the_same_are_still_of_the_next_ones() -> None:
    """There the last word is a good guess at the next, so that the model fits the present one even better."""
    generator = torch.Generator().manual_seed(5)
    words, stays = sentences(), torch.rand(SENTENCES, PLACES, generator=generator) < 0.9
    for place in range(1, PLACES):
        words[:, place] = torch.where(stays[:, place], words[:, place - 1], words[:, place])
    model = trained(talker(), words, words, 1)
    assert taken(model, kept({"x": words, "labels": words})).reader.shifted
    assert not taken(model, kept({"x": words, "labels": shifted(words)})).reader.shifted


@pytest.mark.parametrize(("lag", "told"), [(-1, "t-1"), (2, r"t\+2")])
def test_a_loop_that_trains_other_places_is_named(lag: int, told: str) -> None:
    """Sentences from the end to the beginning, or every second word: the model fits neither reading."""
    words = counted()
    model = trained(talker(), words, words, lag)
    with pytest.raises(CaptureError, match=told):
        taken(model, kept({"x": words, "labels": words}))


def test_a_split_that_puts_targets_beside_positions_is_the_cure() -> None:
    """As the message says: targets of the place before, with none at the beginning."""
    words = counted()
    before = torch.cat([torch.full((len(words), 1), -100), words[:, :-1]], dim=1)
    model = trained(talker(), words, words, -1)
    assert not taken(model, kept({"x": words, "labels": before})).reader.shifted


def test_the_plan_says_that_labels_are_shifted() -> None:
    """In words, where a position's target is the next one's label."""
    plans = []
    for name in ("Llama", "BART's decoder"):
        model = MODELS[name]()
        tunneller = Tunneller(
            model,
            optimizer=torch.optim.Adam(model.parameters()),
            validate=lambda: 0.0,
            mode="min",
            client=FakePool().client(),
        )
        tunneller.observe({"input_ids": sentences(), "labels": sentences(seed=2)})
        plans.append(tunneller.plan)
        tunneller.close()
    assert "of the next label" in plans[0]
    assert "next label" not in plans[1]


def said_at_a_stall(model: nn.Module, batch: Mapping[str, Tensor]) -> Tunneller:
    """A tunneller that has tunnelled twice, before any training."""
    made = Tunneller(
        model,
        optimizer=torch.optim.Adam(model.parameters()),
        validate=lambda: 0.0,
        mode="min",
        client=FakePool().client(),
        patience=1,
        cooldown=0,
        sync=True,
    )
    for _ in range(4):
        made.observe(dict(batch))
        made.step(1.0)
    made.close()
    return made


def test_sequences_that_the_model_does_not_fit_at_a_stall_are_named(caplog: pytest.LogCaptureFixture) -> None:
    """One warning, where neither an own loss nor what the model fits says which labels it is trained on."""
    said_at_a_stall(talker(), {"x": sentences(), "labels": sentences(seed=2)})
    assert caplog.text.count("neither those of the positions nor those of the next ones") == 1


def test_sequences_whose_labels_are_known_are_not(caplog: pytest.LogCaptureFixture) -> None:
    """By the model's own loss, or because a trained model fits them."""
    said_at_a_stall(MODELS["Llama"](), {"input_ids": sentences(), "labels": sentences(seed=2)})
    words = counted()
    labels = (7 * words + 2) % WORDS
    said_at_a_stall(trained(talker(), words, labels, 0), {"x": words, "labels": labels})
    assert "neither" not in caplog.text


def test_tags_and_images_are_read_as_they_are() -> None:
    """One label a row, a place, or a pixel: only sequences may be shifted."""
    tags = Made(lambda net, x: net.last(x), last=nn.Linear(6, 3))
    for shape in ((SENTENCES,), (SENTENCES, 1), (SENTENCES, PLACES), (SENTENCES, 3, 2)):
        labels = torch.arange(int(np.prod(shape))).reshape(shape) % 3
        rows = Reservoir.of_tensors(torch.randn(*shape, 6), labels).rows(SENTENCES, np.random.default_rng(0))
        assert not taken(tags, rows).reader.shifted
