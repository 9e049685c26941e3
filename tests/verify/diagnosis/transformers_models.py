"""Tiny models of transformers, built from configurations without weights or a network, each with a batch."""

from __future__ import annotations

import itertools

import torch


def resnet():
    """Return an image classifier: convolutions without biases, batch norms, one linear layer."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config = ResNetConfig(
        num_channels=3, embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic", num_labels=5
    )
    batch = {"pixel_values": torch.randn(3, 3, 32, 32), "labels": torch.tensor([0, 3, 1])}
    return ResNetForImageClassification(config), batch


def vit():
    """Return a vision transformer: patches by a convolution, a class token that is a bare parameter."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=16,
        patch_size=8,
        num_labels=4,
    )
    batch = {"pixel_values": torch.randn(3, 3, 16, 16), "labels": torch.tensor([0, 3, 1])}
    return ViTForImageClassification(config), batch


def bert():
    """Return a masked language model whose last layer is tied to its word embedding."""
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=16,
    )
    tokens = torch.randint(1, 40, (3, 7))
    tokens[0, 5:] = 0
    batch = {"input_ids": tokens, "attention_mask": (tokens != 0).long(), "labels": tokens.roll(1, 0)}
    return BertForMaskedLM(config), batch


def gpt2():
    """Return a causal language model of ``Conv1D`` layers, tied to its word embedding."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    tokens = torch.randint(0, 40, (3, 7))
    return GPT2LMHeadModel(config), {"input_ids": tokens, "labels": tokens}


def resnet18():
    """Return a ResNet of the size of ResNet-18 (11 million parameters) and 4 images of 64 by 64."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", num_labels=100
    )
    batch = {"pixel_values": torch.randn(4, 3, 64, 64), "labels": torch.randint(0, 100, (4,))}
    return ResNetForImageClassification(config), batch


def resnet18_of_32():
    """Return the same ResNet and as many images as it is trained with."""
    model, _ = resnet18()
    return model, {"pixel_values": torch.randn(32, 3, 64, 64), "labels": torch.randint(0, 100, (32,))}


def transformer6():
    """Return a BERT of six layers, width 256, and 4 sequences of 128 tokens."""
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=8000, hidden_size=256, num_hidden_layers=6, num_attention_heads=4, intermediate_size=1024
    )
    tokens = torch.randint(1, 8000, (4, 128))
    return BertForMaskedLM(config), {"input_ids": tokens, "labels": tokens}


def convolutions256():
    """Return three convolutions on two images of 256 x 256, to be reproduced."""
    body = [torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(16, 16, 3, padding=1)]
    model = torch.nn.Sequential(*body, torch.nn.ReLU(), torch.nn.Conv2d(16, 3, 3, padding=1))
    x = torch.randn(2, 3, 256, 256)
    return model, (x, x), torch.nn.functional.mse_loss


def perceptron():
    """Return three linear layers of width 1024 on 128 rows."""
    sizes = (784, 1024, 1024, 10)
    layers = [part for n, m in itertools.pairwise(sizes) for part in (torch.nn.Linear(n, m), torch.nn.ReLU())]
    batch = torch.randn(128, 784), torch.randint(0, 10, (128,))
    return torch.nn.Sequential(*layers[:-1]), batch, torch.nn.functional.cross_entropy


MODELS = {"resnet": resnet, "vit": vit, "bert": bert, "gpt2": gpt2}
