"""What a SentencePiece file says of itself: its pieces, and which family of tokenizers it is of."""

from google.protobuf.message import DecodeError

from jest_tf.errors import UserError
from jest_tf.model_record import TokenizerRule

BPE = 2  # TrainerSpec.ModelType


def load(path: str):
    """The ModelProto of a file; UserError: it is no SentencePiece model."""
    from sentencepiece import sentencepiece_model_pb2

    try:
        with open(path, "rb") as file:
            model = sentencepiece_model_pb2.ModelProto.FromString(file.read())
    except (OSError, DecodeError) as error:
        raise UserError(f"{path} cannot be read as a SentencePiece model: {error}") from error
    if not model.pieces:
        raise UserError(f"{path} is no SentencePiece model: it holds no pieces")
    return model


def piece_id(model, *names: str) -> int | None:
    """Id of the first of these pieces that the model has."""
    ids = {piece.piece: i for i, piece in reversed(list(enumerate(model.pieces)))}
    return next((ids[name] for name in names if name in ids), None)


def is_gemma_like(model) -> bool:
    """BPE, as SigLIP 2 has it; SigLIP's is a unigram model."""
    return model.trainer_spec.model_type == BPE


def siglip_rule(model) -> TokenizerRule:
    """SigLIP: lower case, no punctuation, padded with the end token."""
    pad = piece_id(model, "</s>", "<eos>")
    return TokenizerRule(pad_id=1 if pad is None else pad, lower=True, canonicalize=True)


def siglip2_rule(model) -> TokenizerRule:
    """SigLIP 2: lower case, padded with <pad>."""
    return TokenizerRule(pad_id=piece_id(model, "<pad>") or 0, lower=True)
