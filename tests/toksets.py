# SPDX-License-Identifier: Apache-2.0
"""toksets.py - small tokenizers of every published shape, trained on the text in this file.

Each has the normalizer, pre-tokenizer, post-processor, decoder and added tokens that the
family it is named after publishes; only the vocabulary is small."""
import json

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers import decoders as dec
from tokenizers import models, normalizers as norm, pre_tokenizers as pre
from tokenizers import processors as proc
from tokenizers import trainers

TEXT = """
The quick brown fox jumps over the lazy dog. It's what they'd said: "we're sure you'll see I've
won't can't shouldn't" -- and it DOESN'T matter; HTTPServer, camelCase, snake_case_name, XMLHttp.
Call me Ishmael. Some years ago, never mind how long precisely, having little or no money in my
purse, and nothing particular to interest me on shore, I thought I would sail about a little and
see the watery part of the world. 1234567890 3.14159 1,000,000 0x1F 2026-11-25 12:30:45 +49 30 1234
Der schnelle braune Fuchs springt \u00fcber den faulen Hund. Stra\u00dfe, \u00c4rger, \u00d6l, M\u00e4dchen, Gr\u00f6\u00dfe.
Le c\u0153ur a ses raisons que la raison ne conna\u00eet point. \u00c7a va? \u00c0 bient\u00f4t, gar\u00e7on! L'\u00e9t\u00e9 na\u00eff.
El ni\u00f1o comi\u00f3 una manzana. \u00bfD\u00f3nde est\u00e1 la biblioteca? \u00a1Qu\u00e9 l\u00e1stima! Ma\u00f1ana ser\u00e1 otro d\u00eda.
Pchn\u0105\u0107 w t\u0119 \u0142\u00f3d\u017a je\u017ca lub o\u015bm skrzy\u0144 fig. P\u0159\u00edli\u0161 \u017elu\u0165ou\u010dk\u00fd k\u016f\u0148 \u00fap\u011bl \u010f\u00e1belsk\u00e9 \u00f3dy.
\u0421\u044a\u0435\u0448\u044c \u0436\u0435 \u0435\u0449\u0451 \u044d\u0442\u0438\u0445 \u043c\u044f\u0433\u043a\u0438\u0445 \u0444\u0440\u0430\u043d\u0446\u0443\u0437\u0441\u043a\u0438\u0445 \u0431\u0443\u043b\u043e\u043a, \u0434\u0430 \u0432\u044b\u043f\u0435\u0439 \u0447\u0430\u044e. \u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0412\u043e\u0439\u043d\u0430 \u0438 \u043c\u0438\u0440.
\u039e\u03b5\u03c3\u03ba\u03b5\u03c0\u03ac\u03b6\u03c9 \u03c4\u1f74\u03bd \u03c8\u03c5\u03c7\u03bf\u03c6\u03b8\u03cc\u03c1\u03b1 \u03b2\u03b4\u03b5\u03bb\u03c5\u03b3\u03bc\u03af\u03b1. \u0391\u03b8\u03ae\u03bd\u03b1, \u0395\u03bb\u03bb\u03ac\u03b4\u03b1.
\u05d3\u05d2 \u05e1\u05e7\u05e8\u05df \u05e9\u05d8 \u05d1\u05d9\u05dd \u05de\u05d0\u05d5\u05db\u05d6\u05d1 \u05d5\u05dc\u05e4\u05ea\u05e2 \u05de\u05e6\u05d0 \u05d7\u05d1\u05e8\u05d4. \u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd \u05e2\u05d5\u05dc\u05dd.
\u0635\u0650\u0641 \u062e\u064e\u0644\u0642\u064e \u062e\u064e\u0648\u062f\u064d \u0643\u064e\u0645\u0650\u062b\u0644\u0650 \u0627\u0644\u0634\u064e\u0645\u0633\u0650. \u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645\u060c \u0643\u064a\u0641 \u062d\u0627\u0644\u0643\u061f \u0661\u0662\u0663
\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e\u0964 \u090b\u0937\u093f\u092f\u094b\u0902 \u0915\u094b \u0938\u0924\u093e\u0928\u0947 \u0935\u093e\u0932\u0947 \u0926\u0941\u0937\u094d\u091f \u0930\u093e\u0915\u094d\u0937\u0938\u094b\u0902 \u0915\u0947 \u0930\u093e\u091c\u093e \u0930\u093e\u0935\u0923 \u0915\u093e \u0967\u0968\u0969
\u0e40\u0e1b\u0e47\u0e19\u0e21\u0e19\u0e38\u0e29\u0e22\u0e4c\u0e2a\u0e38\u0e14\u0e1b\u0e23\u0e30\u0e40\u0e2a\u0e23\u0e34\u0e10\u0e40\u0e25\u0e34\u0e28\u0e04\u0e38\u0e13\u0e04\u0e48\u0e32 \u0e01\u0e27\u0e48\u0e32\u0e1a\u0e23\u0e23\u0e14\u0e32\u0e1d\u0e39\u0e07\u0e2a\u0e31\u0e15\u0e27\u0e4c\u0e40\u0e14\u0e23\u0e31\u0e08\u0e09\u0e32\u0e19
\u5929\u5730\u7384\u9ec4\uff0c\u5b87\u5b99\u6d2a\u8352\u3002\u65e5\u6708\u76c8\u6603\uff0c\u8fb0\u5bbf\u5217\u5f20\u3002\u4f60\u597d\uff0c\u4e16\u754c\uff01\u6211\u4eec\u5728\u8fd9\u91cc\u8bd5\u8bd5\u4e2d\u6587\u5206\u8bcd\u3002\u5b78\u800c\u6642\u7fd2\u4e4b\u3002
\u3044\u308d\u306f\u306b\u307b\u3078\u3068\u3061\u308a\u306c\u308b\u3092\u3002\u30c8\u30fc\u30af\u30ca\u30a4\u30b6\u30fc\u306f\u6587\u5b57\u5217\u3092\u5206\u5272\u3057\u307e\u3059\u3002\u6771\u4eac\u90fd\u306b\u4f4f\u3093\u3067\u3044\u307e\u3059\u3002\uff76\uff9e\uff7e\uff9e\u30ac\u30bc
\ud0a4\uc2a4\uc758 \uace0\uc720\uc870\uac74\uc740 \uc785\uc220\ub07c\ub9ac \ub9cc\ub098\uc57c \ud558\uace0 \ud2b9\ubcc4\ud55c \uae30\uc220\uc740 \ud544\uc694\uce58 \uc54a\ub2e4. \uc548\ub155\ud558\uc138\uc694 \uc138\uacc4
Con s\u00f3c nhanh nh\u1eb9n nh\u1ea3y qua con ch\u00f3 l\u01b0\u1eddi. Ti\u1ebfng Vi\u1ec7t c\u00f3 nhi\u1ec1u d\u1ea5u. \u0130stanbul'da \u0131\u015f\u0131k \u011fibi.
\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f44d\U0001f3fd \u2764\ufe0f \U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7 \u2705 \u00bd \u2167 \u2460 \u2126 \ufb01 \u017f \U0001d54f \u2211\u222b\u221a\u221e \u20ac\u00a3\u00a5 \u2014\u2026\u201e\u201c
def tokenize(text: str, *, limit=None) -> list[int]:
    \"\"\"Return the ids.\"\"\"
    for i, (a, b) in enumerate(zip(text[:-1], text[1:])):
        if a == ' ' and not b.isspace():   # a comment
            ids += [vocab.get(a + b, -1)] * (i % 3)
\treturn {k: v for k, v in sorted(ids.items()) if v >= 0 or k != "x"}
#include <stdio.h>
int main(int argc, char **argv) { printf("%s\\n", argv[argc - 1]); return x->y[3] << 2 | ~0xFFu; }
<html><body class="a b">&nbsp;&amp;</body></html> SELECT * FROM t WHERE a = 'b' AND c != "d";\r\n
{"key": [1, 2.5e-3, null, true], "\u00fc": "\\u00fc\\n"}   \n\n\n\t\t  trailing   \n
"""

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
TAIL = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
ANY_CASE = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = ANY_CASE + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*" + TAIL
QWEN2 = ANY_CASE + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*" + TAIL
QWEN35 = (ANY_CASE + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
          + TAIL)
PHI4 = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*"
        r"|\s*[\r\n]|\s+(?!\S)|\s+")
UP, LOW = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
OTHER = r"[^\r\n\p{L}\p{N}]?"
O200K = (OTHER + UP + "*" + LOW + "+" + ANY_CASE + "?|" + OTHER + UP + "+" + LOW + "*" + ANY_CASE
         + r"?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + TAIL)
TEKKEN = (OTHER + UP + "*" + LOW + "+|" + OTHER + UP + "+" + LOW
          + r"*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*" + TAIL)
DEEPSEEK3 = (r"[!" + "\"" + r"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?"
             r"[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*" + TAIL)
HAN_KANA = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
HAN_WIDE = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
# As its first models have it: every cased letter by name, and the punctuation of East Asia.
DEEPSEEK_LETTERS = (
    r"\s?[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293"
    r"\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c"
    r"\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5"
    r"\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45]+").encode().decode("unicode_escape")
DEEPSEEK_PUNCT = "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"


def alphabet_pieces(pre_tokenizer, normalizer=None, size=900):
    """Vocabulary and merges trained through the given steps."""
    t = Tokenizer(models.BPE())
    if normalizer is not None:
        t.normalizer = normalizer
    if pre_tokenizer is not None:
        t.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, min_frequency=1,
                                  initial_alphabet=pre.ByteLevel.alphabet())
    t.train_from_iterator(TEXT.split("\n") * 2 + [TEXT], trainer)
    model = json.loads(t.to_str())["model"]
    return model["vocab"], [tuple(m) for m in model["merges"]]


def byte_level(pre_tokenizer, normalizer=None, special=("<|endoftext|>",), added=(),
               processor=None, decoder=None, **options):
    vocab, merges = alphabet_pieces(pre_tokenizer, normalizer)
    t = Tokenizer(models.BPE(vocab=vocab, merges=merges, **options))
    if normalizer is not None:
        t.normalizer = normalizer
    t.pre_tokenizer = pre_tokenizer
    t.decoder = decoder if decoder is not None else dec.ByteLevel()
    t.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in special])
    t.add_tokens(list(added))
    if processor is not None:
        t.post_processor = processor(t)
    return t


def sentence_piece(normalizer, pre_tokenizer, decoder, byte_fallback=True, fuse_unk=True,
                   unk="<unk>", added=(), processor=None, train_pre=None, size=700):
    """SentencePiece as converted: <unk> <s> </s>, the bytes, then the rest."""
    t = Tokenizer(models.BPE())
    if normalizer is not None:
        t.normalizer = normalizer
    if train_pre is not None:
        t.pre_tokenizer = train_pre
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, limit_alphabet=180,
                                  max_token_length=12)
    t.train_from_iterator(TEXT.split("\n") * 2, trainer)
    model = json.loads(t.to_str())["model"]
    names = ["<unk>", "<s>", "</s>"]
    if byte_fallback:
        names += ["<0x%02X>" % i for i in range(256)]
    names += sorted(model["vocab"], key=model["vocab"].get)
    vocab = {n: i for i, n in enumerate(dict.fromkeys(names))}
    t = Tokenizer(models.BPE(vocab=vocab, merges=[tuple(m) for m in model["merges"]],
                             byte_fallback=byte_fallback, fuse_unk=fuse_unk, unk_token=unk))
    if normalizer is not None:
        t.normalizer = normalizer
    if pre_tokenizer is not None:
        t.pre_tokenizer = pre_tokenizer
    if decoder is not None:
        t.decoder = decoder
    t.add_special_tokens([AddedToken(s, special=True, normalized=False)
                          for s in ("<unk>", "<s>", "</s>")])
    t.add_tokens(list(added))
    if processor is not None:
        t.post_processor = processor(t)
    return t


def split(*patterns, last=None):
    steps = [pre.Split(Regex(p) if isinstance(p, str) else p, "isolated") for p in patterns]
    return pre.Sequence(steps + [last or pre.ByteLevel(add_prefix_space=False, use_regex=False)])


def bos(token, more=True):
    def make(t):
        one = proc.TemplateProcessing(single=token + " $A", pair="%s $A %s:1 $B:1" % (token, token),
                                      special_tokens=[(token, t.token_to_id(token))])
        return proc.Sequence([proc.ByteLevel(trim_offsets=False), one]) if more else one
    return make


def chatty():
    """Added tokens of every sort."""
    return [AddedToken("<think>", special=False, normalized=False),
            AddedToken("</think>", special=False, normalized=False),
            AddedToken("<tool_call>", special=False, normalized=False),
            AddedToken("word", special=False, normalized=False, single_word=True),
            AddedToken("<left>", special=False, normalized=False, lstrip=True),
            AddedToken("<right>", special=False, normalized=False, rstrip=True),
            AddedToken("<both>", special=True, normalized=False, rstrip=True, lstrip=True),
            AddedToken("NormMe", special=False, normalized=True),
            AddedToken("\u00e9t\u00e9", special=False, normalized=True),
            AddedToken("<sn>", special=True, normalized=True),
            AddedToken("<a>", special=False, normalized=False),
            AddedToken("<a><b>", special=False, normalized=False),
            AddedToken("<a><b><c>", special=True, normalized=False),
            AddedToken("  ", special=False, normalized=False),
            AddedToken("two words", special=False, normalized=True),
            AddedToken("\n\n", special=False, normalized=False)]


LLAMA2_NORM = norm.Sequence([norm.Prepend("\u2581"), norm.Replace(" ", "\u2581")])
LLAMA2_DEC = dec.Sequence([dec.Replace("\u2581", " "), dec.ByteFallback(), dec.Fuse(),
                           dec.Strip(" ", 1, 0)])
GEMMA_DEC = dec.Sequence([dec.Replace("\u2581", " "), dec.ByteFallback(), dec.Fuse()])
SP_TRAIN = pre.Metaspace(replacement="\u2581", prepend_scheme="always", split=True)


def families():
    level = pre.ByteLevel
    yield "gpt2", lambda: byte_level(level(add_prefix_space=False))
    yield "gpt2-prefix", lambda: byte_level(level(add_prefix_space=True), added=chatty())
    yield "smollm", lambda: byte_level(
        pre.Sequence([pre.Digits(individual_digits=True), level(add_prefix_space=False)]),
        special=["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    yield "llama3", lambda: byte_level(
        split(LLAMA3), special=["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>"],
        processor=bos("<|begin_of_text|>"), ignore_merges=True)
    yield "phi4", lambda: byte_level(split(PHI4))
    yield "qwen2", lambda: byte_level(
        split(QWEN2), norm.NFC(), special=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        added=chatty())
    yield "qwen35", lambda: byte_level(split(QWEN35), norm.NFC(), added=chatty())
    yield "o200k", lambda: byte_level(split(O200K))
    yield "tekken", lambda: byte_level(split(TEKKEN), special=["<s>", "[INST]", "[/INST]"],
                                       processor=bos("<s>", False), ignore_merges=True)
    yield "deepseek3", lambda: byte_level(
        split(r"\p{N}{1,3}", HAN_KANA, DEEPSEEK3), norm.Sequence([]),
        special=["<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cUser\uff5c>",
                 "<\uff5cAssistant\uff5c>"],
        added=[AddedToken("<think>", normalized=False)],
        processor=bos("<\uff5cbegin\u2581of\u2581sentence\uff5c>"))
    yield "deepseek2", lambda: byte_level(
        split("[\r\n]", DEEPSEEK_LETTERS, DEEPSEEK_PUNCT, r"\s+$", HAN_WIDE, r"\p{N}+"))
    yield "deepseek-coder", lambda: byte_level(
        split("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", HAN_WIDE, r"\p{N}"))
    yield "llama2", lambda: sentence_piece(LLAMA2_NORM, None, LLAMA2_DEC, train_pre=SP_TRAIN,
                                           processor=bos("<s>", False), added=chatty())
    yield "mistral", lambda: sentence_piece(
        None, pre.Metaspace(replacement="\u2581", prepend_scheme="first", split=False),
        LLAMA2_DEC, train_pre=SP_TRAIN, added=chatty())
    yield "gemma", lambda: sentence_piece(
        norm.Replace(" ", "\u2581"), pre.Split(" ", "merged_with_previous"), GEMMA_DEC,
        processor=bos("<s>", False),
        added=[AddedToken("\n" * n, normalized=False) for n in range(2, 8)])
    yield "metaspace", lambda: sentence_piece(
        None, SP_TRAIN, dec.Metaspace(replacement="\u2581", prepend_scheme="always"),
        train_pre=SP_TRAIN, added=chatty())
    yield "metaspace-never", lambda: sentence_piece(
        norm.Strip(True, False), pre.Metaspace("\u2581", "never", False),
        dec.Metaspace("\u2581", "never"), train_pre=SP_TRAIN)
    yield "metaspace-first", lambda: sentence_piece(
        norm.Sequence([norm.Strip(True, True), norm.Replace(Regex(" +"), " ")]),
        pre.Metaspace("\u2581", "first", True), dec.Metaspace("\u2581", "first"),
        train_pre=SP_TRAIN, added=chatty())
    yield "unk", lambda: sentence_piece(LLAMA2_NORM, None, LLAMA2_DEC, byte_fallback=False,
                                        train_pre=SP_TRAIN)
    yield "unk-single", lambda: sentence_piece(
        LLAMA2_NORM, None, LLAMA2_DEC, byte_fallback=False, fuse_unk=False, train_pre=SP_TRAIN)
    yield "no-unk", lambda: sentence_piece(LLAMA2_NORM, None, None, byte_fallback=False,
                                           unk=None, train_pre=SP_TRAIN)


def parts():
    """Single steps that no family above has, or has with other settings."""
    level = pre.ByteLevel(add_prefix_space=False, use_regex=False)
    for form in (norm.NFD, norm.NFKC, norm.NFKD, norm.NFC):
        yield form.__name__, lambda form=form: byte_level(level, form(), added=chatty())
    yield "lower", lambda: byte_level(level, norm.Lowercase(), added=chatty())
    yield "accents", lambda: byte_level(
        level, norm.Sequence([norm.NFD(), norm.StripAccents(), norm.Lowercase()]), added=chatty())
    yield "strip", lambda: byte_level(level, norm.Strip(True, True))
    yield "nmt", lambda: byte_level(level, norm.Nmt())
    yield "byte-normalizer", lambda: byte_level(
        pre.WhitespaceSplit(), norm.ByteLevel(), added=[AddedToken("two words", normalized=True)])
    yield "replace", lambda: byte_level(level, norm.Sequence(
        [norm.Replace(Regex(r"\s+"), " "), norm.Replace("''", '"'), norm.Prepend(">>")]))
    for name in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"):
        for invert in (False, True):
            yield "split-%s-%d" % (name, invert), lambda name=name, invert=invert: byte_level(
                pre.Sequence([pre.Split(Regex(r"[aeiou\s]"), name, invert), level]))
            yield "string-%s-%d" % (name, invert), lambda name=name, invert=invert: byte_level(
                pre.Sequence([pre.Split(" ", name, invert), level]))
        yield "punct-" + name, lambda name=name: byte_level(
            pre.Sequence([pre.Punctuation(name), level]))
    yield "digits", lambda: byte_level(pre.Sequence([pre.Digits(False), level]))
    yield "whitespace", lambda: byte_level(pre.Sequence([pre.Whitespace(), level]))
    yield "bert", lambda: byte_level(pre.Sequence([pre.BertPreTokenizer(), level]))
    yield "level-then-split", lambda: byte_level(
        pre.Sequence([level, pre.Split(Regex("[\u0120\u010a]"), "merged_with_next")]))
    yield "suffix", lambda: byte_level(level, decoder=dec.BPEDecoder("e"))
    yield "fuse-replace", lambda: byte_level(level, decoder=dec.Sequence(
        [dec.ByteLevel(), dec.Replace("the", "THE"), dec.Strip("e", 1, 0)]))
    yield "fuse-regex", lambda: byte_level(level, decoder=dec.Sequence(
        [dec.ByteLevel(), dec.Replace(Regex("[aeiou]+"), "_")]))
    yield "no-decoder", lambda: byte_level(level, decoder=dec.Sequence([]))
    yield "roberta", lambda: byte_level(pre.ByteLevel(), special=["<s>", "</s>"], processor=lambda t:
                                        proc.RobertaProcessing(("</s>", t.token_to_id("</s>")),
                                                               ("<s>", t.token_to_id("<s>"))))


# None is among the patterns matched by hand.
PATTERNS = [
    GPT2 + "|x", LLAMA3 + "|x", QWEN35 + "|x", O200K + "|x", TEKKEN + "|x", DEEPSEEK3 + "|x",
    PHI4 + "|x", r"\p{N}{1,3}(?=\p{N}{3}*\b)|\s+", r" ?[^(\s|[.,!?\u2026\u3002\uff0c])]+",
    r"\w+|[^\w\s]+", r"\W", r"\d+|\D", r"\h+|\H", r"[^\s\W]+", r"[\w&&[^\d_]]+", r"[^\w&&[a-z]]",
    r"[[:digit:][:space:]]+", r"(?i)stRase|k|\u00fc", r"(?i:[a-f])+|.", r"(?m:.)", r".+", r"^.|.$",
    r"\A.", r".\z", r"\bt", r"\B\w", r"a{2}|b{1,2}|c{,2}|d{2,}", r"\p{N}{1,3}+", r"(?>\s+)x?",
    r"\s++\S", r"(?<name>[A-Z])[a-z]*", r"[\u4e00-\u9fa5]+".encode().decode("unicode_escape"),
    r"\p{Han}+|\p{Hiragana}+|\p{Cyrillic}+|\p{^Latin}", r"\P{L}+", r"x*", r"(?:ab|cd)+|e?",
    r"\x41|\x{e9}|\u00fc|\t", r"[\]\-\[^]", r"[]a]", r"[a\-z]", r"[-a]", r"[a-]",
    r"(?=[aeiou])\w{2}", r"(?![aeiou])\w", r"a|b(?i)c|d", r"[\S&&[^a-z]]+", r"\s+(?=\S)|\s+$",
    r"[^\n]*\n", r"\.\*\+\?\(\)\{\}\|", r"a{b}|a{", r"(?:\p{Lu}\p{Ll}+)", r"\p{Letter}+",
]


def patterns():
    level = pre.ByteLevel(add_prefix_space=False, use_regex=False)
    for i, p in enumerate(PATTERNS):
        yield "pattern %r" % p, lambda p=p: byte_level(pre.Sequence(
            [pre.Split(Regex(p), "isolated"), level]))
