"""Lightning with tunnels: every line with the word, or with what comes from gdsolver, is added for them.

gdsolver-pool up &
python examples/lightning_fit.py
"""

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gdsolver import LightningCallback

torch.set_num_threads(1)
pl.seed_everything(0)
inputs = torch.rand(600, 3)
targets = torch.stack([(inputs[:, 0] - inputs[:, 1]).abs(), inputs[:, 1:].amax(dim=1)], dim=1)
train, validation = [TensorDataset(inputs[part], targets[part]) for part in torch.arange(600).split([400, 200])]


class Regression(pl.LightningModule):
    """3-4-2 with ReLUs."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))

    def forward(self, batch: Tensor) -> Tensor:
        """The outputs [N, 2]."""
        return self.net(batch)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """The loss of a batch."""
        return nn.functional.mse_loss(self(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Log the loss."""
        self.log("val_loss", nn.functional.mse_loss(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-2)


trainer = pl.Trainer(
    max_epochs=30,
    accelerator="cpu",
    logger=False,
    enable_progress_bar=False,
    callbacks=[
        pl.callbacks.ModelCheckpoint("runs/lightning", monitor="val_loss"),
        LightningCallback(monitor="val_loss", layer="auto", time_s=0.5, polish_s=10.0),
    ],
)
trainer.fit(Regression(), DataLoader(train, batch_size=20, shuffle=True), DataLoader(validation, batch_size=200))
best = trainer.checkpoint_callback
print(f"best checkpoint: {best.best_model_path}, val_loss {float(best.best_model_score):.2e}")
