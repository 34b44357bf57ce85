"""A Hugging Face Trainer with tunnels: every line with the word, or with what comes from gdsolver, is added for them.

The model is tiny and made from a configuration, so that nothing is downloaded.

    gdsolver-pool up &
    python examples/huggingface_trainer.py
"""

import tempfile

import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from gdsolver import HuggingFaceCallback

torch.set_num_threads(1)
torch.manual_seed(0)
words = torch.randint(0, 30, (600, 8))
labels = words[:, 0] % 4  # what the first word says
rows = [{"input_ids": word, "labels": label} for word, label in zip(words, labels, strict=True)]

model = BertForSequenceClassification(
    BertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=8,
        num_labels=4,
    )
)
with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=4,
        per_device_train_batch_size=20,
        per_device_eval_batch_size=200,
        learning_rate=2e-3,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="hits",
        greater_is_better=True,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=rows[:400],
        eval_dataset=rows[400:],
        compute_metrics=lambda found: {"hits": float((found.predictions.argmax(-1) == found.label_ids).mean())},
    )
    trainer.add_callback(HuggingFaceCallback(trainer, radius=2.0, time_s=1.0, polish_s=10.0))
    trainer.train()
    print(f"hits of the best epoch: {trainer.state.best_metric:.3f}")
