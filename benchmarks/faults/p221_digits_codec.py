import os
import torch
import torch.nn as nn
from sklearn.datasets import load_digits

torch.manual_seed(int(os.environ.get("SEED", 0)))
images = torch.from_numpy(load_digits().images).float().div(16).unsqueeze(1)
images = images[torch.randperm(images.shape[0])]
train_set, val_set = images[:1400], images[1400:]

encoder = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1), nn.GELU(),
    nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.GELU(),
    nn.Flatten(), nn.Linear(256, 12),
)
decoder = nn.Sequential(
    nn.Linear(12, 256), nn.GELU(), nn.Unflatten(1, (16, 4, 4)),
    nn.ConvTranspose2d(16, 8, 2, stride=2), nn.GELU(),
    nn.Conv2d(8, 1, 3, padding=1),
)
autoencoder = nn.Sequential(encoder, decoder)
optimizer = torch.optim.AdamW(autoencoder.parameters(), lr=3e-3)
loader = torch.utils.data.DataLoader(train_set, batch_size=100, shuffle=True)

for epoch in range(15):
    running = 0.0
    for batch in loader:
        loss = nn.functional.mse_loss(autoencoder(batch), batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        running += loss.item()
    mean = running / len(loader)
    if epoch % 3 == 2:
        print("epoch", epoch + 1, "reconstruction error", round(mean, 5))

with torch.no_grad():
    val = nn.functional.mse_loss(autoencoder(val_set), val_set).item()
print("held-out error=%.5f" % val)
print("final loss=%.5f" % mean)
