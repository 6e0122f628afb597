"""Which joints of a clip depend on each other: a variational network that infers links from motion and is trained to
predict it.

Source: Li et al., Actional-Structural Graph Convolutional Networks for Skeleton-based Action Recognition, CVPR 2019,
section 4.1 (A-link inference module); keys and constants of limaosen0/AS-GCN@ab6951c `net/utils/adj_learn.py`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

NO_LINK = 0.95
"""Prior probability that two joints are not linked; the link types share the rest evenly (section 4.1)."""
VARIANCE = 5e-4
"""Variance of a predicted coordinate in the likelihood."""
TEMPERATURE = 0.5
"""Of the Gumbel softmax that draws link types in training."""
SCALE = 0.1
"""Action links are this times their normalised matrix."""
DROPOUT = 0.5


class Pairs(nn.Module):
    """All ordered pairs of different joints, by sender and then by receiver."""

    send: Tensor
    receive: Tensor
    arriving: Tensor

    def __init__(self, joints: int) -> None:
        super().__init__()
        send, receive = (~torch.eye(joints, dtype=torch.bool)).nonzero().T
        self.register_buffer("send", send.contiguous(), persistent=False)
        self.register_buffer("receive", receive.contiguous(), persistent=False)
        arriving = functional.one_hot(receive, joints).T.float()
        self.register_buffer("arriving", arriving.contiguous(), persistent=False)

    def spread(self, x: Tensor) -> Tensor:
        """What receiver and sender of each pair have: (P, V, D) -> (P, V (V - 1), 2 D)."""
        return torch.cat([x[:, self.receive], x[:, self.send]], -1)

    def gather(self, x: Tensor) -> Tensor:
        """Messages summed at each joint: (P, V (V - 1), D) -> (P, V, D).

        A matrix product gives the same sum every time on a GPU.
        """
        return self.arriving.to(x.dtype) @ x


class Perceptron(nn.Module):
    """Two layers with elu, then a norm over all rows."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, width)
        self.fc2 = nn.Linear(width, width)
        self.bn = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.dropout(functional.elu(self.fc1(x)), DROPOUT, self.training)
        x = functional.elu(self.fc2(x))
        y: Tensor = self.bn(x.flatten(0, 1))
        return y.view(x.shape)


class Encoder(nn.Module):
    """Joints' trajectories to logits of link types: joints to pairs, to joints, to pairs."""

    def __init__(self, inputs: int, width: int, types: int) -> None:
        super().__init__()
        self.mlp1 = Perceptron(inputs, width)
        self.mlp2 = Perceptron(2 * width, width)
        self.mlp3 = Perceptron(width, width)
        self.mlp4 = Perceptron(3 * width, width)
        self.fc_out = nn.Linear(width, types)

    def forward(self, x: Tensor, pairs: Pairs) -> Tensor:
        x = self.mlp1(x)
        between = self.mlp2(pairs.spread(x))
        x = self.mlp3(pairs.gather(between) / x.shape[1])
        y: Tensor = self.fc_out(self.mlp4(torch.cat([pairs.spread(x), between], -1)))
        return y


class Decoder(nn.Module):
    """The next frame of a frame: messages along links, a gated memory per joint, three layers."""

    def __init__(self, channels: int, width: int, types: int) -> None:
        super().__init__()
        self.msg_fc1 = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(types))
        self.msg_fc2 = nn.ModuleList(nn.Linear(width, width) for _ in range(types))
        self.hidden_r = nn.Linear(width, width, bias=False)
        self.hidden_i = nn.Linear(width, width, bias=False)
        self.hidden_n = nn.Linear(width, width, bias=False)
        self.input_r = nn.Linear(channels, width)
        self.input_i = nn.Linear(channels, width)
        self.input_n = nn.Linear(channels, width)
        self.out_fc1 = nn.Linear(width, width)
        self.out_fc2 = nn.Linear(width, width)
        self.out_fc3 = nn.Linear(width, channels)

    def step(self, frame: Tensor, hidden: Tensor, edges: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """The frame after `frame` (P, V, C) and the memory (P, V, width) after it; type 0, no link, carries nothing."""
        between = pairs.spread(hidden)
        messages = hidden.new_zeros(*between.shape[:2], hidden.shape[-1])
        for kind in range(1, len(self.msg_fc1)):
            message = functional.dropout(torch.tanh(self.msg_fc1[kind](between)), DROPOUT, self.training)
            message = torch.tanh(self.msg_fc2[kind](message))
            messages = messages + message * edges[..., kind : kind + 1] / (len(self.msg_fc1) - 1)
        # the published program divides by the number of coordinates here, not of joints
        heard = pairs.gather(messages) / frame.shape[-1]
        reset = torch.sigmoid(self.input_r(frame) + self.hidden_r(heard))
        keep = torch.sigmoid(self.input_i(frame) + self.hidden_i(heard))
        new = torch.tanh(self.input_n(frame) + reset * self.hidden_n(heard))
        hidden = (1 - keep) * new + keep * hidden
        y = functional.dropout(torch.relu(self.out_fc1(hidden)), DROPOUT, self.training)
        y = functional.dropout(torch.relu(self.out_fc2(y)), DROPOUT, self.training)
        return frame + self.out_fc3(y), hidden


class ActionLinks(nn.Module):
    """Links of each person of a clip, from clips of a fixed number of frames.

    Args:
        joints, channels: V and C of the motions.
        frames: T of the motions. 50 published.
        hidden: width of all layers. 128 published.
        types: link types, the first of which is no link. 3 published.
    """

    def __init__(self, joints: int, channels: int, frames: int = 50, hidden: int = 128, types: int = 3) -> None:
        super().__init__()
        self.joints, self.frames, self.hidden, self.types = joints, frames, hidden, types
        self.encoder = Encoder(channels * frames, hidden, types)
        self.decoder = Decoder(channels, hidden, types)
        self.pairs = Pairs(joints)
        for part in self.encoder.modules():
            if isinstance(part, nn.Linear):
                nn.init.xavier_normal_(part.weight)
                nn.init.constant_(part.bias, 0.1)

    def people(self, x: Tensor) -> Tensor:
        """Motions (N, C, T, V, M) as trajectories, one person a row (N M, V, T, C)."""
        return x.permute(0, 4, 3, 2, 1).flatten(0, 1)

    def edges(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Link types of each ordered pair of different joints.

        Args:
            x: (N, C, frames, V, M).

        Returns:
            One-hot types and their probabilities, both (N M, V (V - 1), types). In training the types are
            drawn by a Gumbel softmax whose gradient goes through; at inference they are the likeliest.
        """
        rows = self.people(x)
        logits = self.encoder(rows.flatten(2), self.pairs)
        if self.training:
            chosen = functional.gumbel_softmax(logits, TEMPERATURE, hard=True)
        else:
            chosen = functional.one_hot(logits.argmax(-1), self.types).to(logits.dtype)
        return chosen, torch.softmax(logits, -1)

    def matrices(self, edges: Tensor) -> Tensor:
        """Action links (N M, types - 1, V, V) of one-hot types: with links of joints to themselves, columns normalised,
        scaled."""
        v = self.joints
        # without its diagonal a matrix of V rows, read row by row, is V - 1 rows of V with a diagonal number before
        # each
        rows = edges[..., 1:].transpose(1, 2).reshape(edges.shape[0], self.types - 1, v - 1, v)
        flat = functional.pad(rows, (1, 0)).flatten(2)
        links = functional.pad(flat, (0, 1)).view(edges.shape[0], self.types - 1, v, v)
        links = links + torch.eye(v, dtype=links.dtype, device=links.device)
        return SCALE * links * (1 / links.sum(-2, keepdim=True) + 1e-10)

    def forward(self, x: Tensor) -> Tensor:
        """Action links (N M, types - 1, V, V) of motions (N, C, frames, V, M)."""
        return self.matrices(self.edges(x)[0])

    def decode(self, x: Tensor, edges: Tensor) -> Tensor:
        """Each frame but the first, predicted from the true one before it: (N M, V, frames - 1, C)."""
        rows = self.people(x)
        hidden = rows.new_zeros(rows.shape[0], self.joints, self.hidden)
        predictions = []
        for number in range(rows.shape[2] - 1):
            frame, hidden = self.decoder.step(rows[:, :, number], hidden, edges, self.pairs)
            predictions.append(frame)
        return torch.stack(predictions, 2)

    def loss(self, x: Tensor) -> Tensor:
        """Negative log-likelihood of the frames and distance of the link types from their prior (equation 8), a clip
        and joint."""
        edges, probability = self.edges(x)
        away = self.decode(x, edges) - self.people(x)[:, :, 1:]
        rows = edges.shape[0] * self.joints
        prior = probability.new_full((self.types,), (1 - NO_LINK) / (self.types - 1))
        prior[0] = NO_LINK
        # the bound is the smallest normal number, so that a probability of zero gives zero
        smallest = torch.finfo(probability.dtype).tiny
        distance = probability * (probability.clamp(min=smallest).log() - prior.log())
        return away.square().sum() / (2 * VARIANCE * rows) + distance.sum() / rows


def sampled(frames: int, goal: int) -> list[int]:
    """Indices of `goal` frames spread evenly over `frames`, repeated where there are fewer."""
    return [math.floor(number * frames / goal) for number in range(goal)]
