"""A checked plan in a loop of one's own, with EMA's weights for the evaluation."""

import torch
from torch import nn

import counterpoint as cp
from counterpoint.trainer import Digits

data = Digits().build()
images, labels = (torch.stack(part) for part in zip(*data.train, strict=True))
test_images, test_labels = (torch.stack(part) for part in zip(*data.evaluation, strict=True))

plan = cp.compose(
    ["cutout", "mixup", {"name": "label_smoothing", "smoothing": 0.1}, "ema"],
    loss=nn.CrossEntropyLoss(),
    task="multiclass",
    num_classes=10,
    inputs="normalized",
)
print(plan)

torch.manual_seed(17)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
engine = cp.Engine(plan, model=model, optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3))
for _epoch in range(20):
    for rows in torch.randperm(len(images)).split(128):
        with engine.batch(images[rows], labels[rows]) as batch:

            def closure(batch: cp.Batch = batch) -> torch.Tensor:
                loss = plan.loss(model(batch.inputs), batch.targets)
                loss.backward()
                return loss.detach()

            engine.step(closure)

with engine.evaluation(), torch.no_grad():
    accuracy = (model(test_images).argmax(1) == test_labels).float().mean()
print(f"accuracy on {len(test_labels)} images not trained on: {accuracy:.3f}")
