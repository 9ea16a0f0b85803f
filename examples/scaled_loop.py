"""Gradient clipping in a loop with a gradient scaler: the engine unscales the gradients before they are clipped."""

import torch
from torch import nn

import counterpoint as cp
from counterpoint.trainer import Digits

data = Digits().build()
images, labels = (torch.stack(part) for part in zip(*data.train, strict=True))
device = "cuda" if torch.cuda.is_available() else "cpu"
dtype = torch.float16 if device == "cuda" else torch.bfloat16

plan = cp.compose(
    ["mixup", {"name": "gradient_clipping", "threshold": 1.0}],
    loss=nn.CrossEntropyLoss(),
    task="multiclass",
    num_classes=10,
    inputs="normalized",
)
torch.manual_seed(17)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)).to(device)
optimizer, scaler = torch.optim.SGD(model.parameters(), lr=0.5), torch.amp.GradScaler(device)
engine = cp.Engine(plan, model=model, optimizer=optimizer, scaler=scaler)
for _epoch in range(5):
    for rows in torch.randperm(len(images)).split(128):
        with engine.batch(images[rows].to(device), labels[rows].to(device)) as batch:

            def closure(batch: cp.Batch = batch) -> torch.Tensor:
                with torch.autocast(device, dtype):
                    outputs = model(batch.inputs)
                loss = plan.loss(outputs, batch.targets)
                scaler.scale(loss).backward()
                return loss.detach()

            engine.step(closure)

with torch.no_grad():
    accuracy = (model(images.to(device)).argmax(1) == labels.to(device)).float().mean()
print(f"accuracy on the {len(labels)} images: {accuracy:.3f}")
