"""Every built-in config has as many parameters as were published of the model, to the last one."""

from __future__ import annotations

import pytest

from llm_pretrain.models.families import FAMILIES, SEEDS

LLAMA_7B, LLAMA_13B = 6_738_415_616, 13_015_864_320
BAICHUAN_7B, BAICHUAN_13B = 7_000_559_616, 13_264_901_120

# By count, the names. A head that is the embedding's table is not counted again.
PUBLISHED = {
    # LLaMA: counts of the files on the Hugging Face hub.
    1_235_814_400: "meta-llama/Llama-3.2-1B meta-llama/Llama-3.2-1B-Instruct",
    3_212_749_824: "meta-llama/Llama-3.2-3B meta-llama/Llama-3.2-3B-Instruct",
    LLAMA_7B: """
        facebook/llama-7b FlagAlpha/Llama2-Chinese-7b-Chat meta-llama/Llama-2-7b
        meta-llama/Llama-2-7b-chat meta-llama/Llama-2-7b-hf meta-llama/Llama-2-7b-chat-hf""",
    8_030_261_248: """
        meta-llama/Meta-Llama-3-8B meta-llama/Meta-Llama-3-8B-Instruct
        meta-llama/Meta-Llama-3.1-8B meta-llama/Meta-Llama-3.1-8B-Instruct
        meta-llama/Llama-3.1-8B meta-llama/Llama-3.1-8B-Instruct meta-llama/Llama-Guard-3-8B
        deepseek-ai/DeepSeek-R1-Distill-Llama-8B""",
    LLAMA_13B: """
        facebook/llama-13b FlagAlpha/Llama2-Chinese-13b-Chat meta-llama/Llama-2-13b
        meta-llama/Llama-2-13b-chat meta-llama/Llama-2-13b-hf meta-llama/Llama-2-13b-chat-hf""",
    32_528_943_616: "facebook/llama-30b facebook/llama-33b",
    65_285_660_672: "facebook/llama-65b",
    68_976_648_192: """
        meta-llama/Llama-2-70b meta-llama/Llama-2-70b-chat
        meta-llama/Llama-2-70b-hf meta-llama/Llama-2-70b-chat-hf""",
    70_553_706_496: """
        meta-llama/Meta-Llama-3-70B meta-llama/Meta-Llama-3-70B-Instruct
        meta-llama/Meta-Llama-3.1-70B meta-llama/Meta-Llama-3.1-70B-Instruct
        meta-llama/Llama-3.1-70B meta-llama/Llama-3.1-70B-Instruct
        meta-llama/Llama-3.3-70B-Instruct deepseek-ai/DeepSeek-R1-Distill-Llama-70B""",
    405_853_388_800: """
        meta-llama/Meta-Llama-3.1-405B meta-llama/Meta-Llama-3.1-405B-Instruct
        meta-llama/Llama-3.1-405B meta-llama/Llama-3.1-405B-Instruct""",
    # Of these no count was published: LLaMA's, with more rows in the table and in the head. Ziya's
    # page has a vocabulary of 39410, in multiples of 128 that is 39424; Linly's announcement has
    # 8076 tokens more than LLaMA's 32000.
    LLAMA_13B + 2 * (39_424 - 32_000) * 5120: "idea-ccnl/ziya-llama-13b-v1",
    LLAMA_7B + 2 * 8076 * 4096: "linly-ai/chinese-llama-2-7b",
    LLAMA_13B + 2 * 8076 * 5120: "linly-ai/chinese-llama-2-13b",
    # Qwen: counts of the files on the Hugging Face hub.
    463_987_712: "Qwen/Qwen1.5-0.5B Qwen/Qwen1.5-0.5B-Chat",
    1_836_828_672: "Qwen/Qwen1.5-1.8B Qwen/Qwen1.5-1.8B-Chat",
    7_721_324_544: """
        qwen/qwen-7b qwen/qwen-7b-chat Qwen/Qwen-7B Qwen/Qwen-7B-Chat
        Qwen/Qwen1.5-7B Qwen/Qwen1.5-7B-Chat""",
    14_167_290_880: """
        qwen/qwen-14b qwen/qwen-14b-chat Qwen/Qwen-14B Qwen/Qwen-14B-Chat
        Qwen/Qwen1.5-14B Qwen/Qwen1.5-14B-Chat""",
    32_512_218_112: "Qwen/Qwen1.5-32B Qwen/Qwen1.5-32B-Chat",
    72_287_920_128: """
        qwen/qwen-72b qwen/qwen-72b-chat Qwen/Qwen-72B Qwen/Qwen-72B-Chat
        Qwen/Qwen1.5-72B Qwen/Qwen1.5-72B-Chat""",
    111_209_914_368: "Qwen/Qwen1.5-110B Qwen/Qwen1.5-110B-Chat",
    1_777_088_000: "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
    494_032_768: """
        Qwen/Qwen2-0.5B Qwen/Qwen2-0.5B-Instruct Qwen/Qwen2.5-0.5B Qwen/Qwen2.5-0.5B-Instruct""",
    1_543_714_304: """
        Qwen/Qwen2-1.5B Qwen/Qwen2-1.5B-Instruct Qwen/Qwen2.5-1.5B Qwen/Qwen2.5-1.5B-Instruct
        Qwen/Qwen2.5-Coder-1.5B Qwen/Qwen2.5-Coder-1.5B-Instruct
        Qwen/Qwen2.5-Math-1.5B Qwen/Qwen2.5-Math-1.5B-Instruct""",
    3_085_938_688: "Qwen/Qwen2.5-3B Qwen/Qwen2.5-3B-Instruct",
    7_615_616_512: """
        Qwen/Qwen2-7B Qwen/Qwen2-7B-Instruct Qwen/Qwen2.5-7B Qwen/Qwen2.5-7B-Instruct
        Qwen/Qwen2.5-Coder-7B Qwen/Qwen2.5-Coder-7B-Instruct
        Qwen/Qwen2.5-Math-7B Qwen/Qwen2.5-Math-7B-Instruct
        deepseek-ai/DeepSeek-R1-Distill-Qwen-7B""",
    14_770_033_664: """
        Qwen/Qwen2.5-14B Qwen/Qwen2.5-14B-Instruct deepseek-ai/DeepSeek-R1-Distill-Qwen-14B""",
    32_763_876_352: """
        Qwen/Qwen2.5-32B Qwen/Qwen2.5-32B-Instruct deepseek-ai/DeepSeek-R1-Distill-Qwen-32B""",
    72_706_203_648: """
        Qwen/Qwen2-72B Qwen/Qwen2-72B-Instruct Qwen/Qwen2.5-72B Qwen/Qwen2.5-72B-Instruct""",
    596_049_920: "Qwen/Qwen3-0.6B Qwen/Qwen3-0.6B-Base",
    1_720_574_976: "Qwen/Qwen3-1.7B Qwen/Qwen3-1.7B-Base",
    4_022_468_096: "Qwen/Qwen3-4B Qwen/Qwen3-4B-Base",
    8_190_735_360: "Qwen/Qwen3-8B Qwen/Qwen3-8B-Base",
    14_768_307_200: "Qwen/Qwen3-14B Qwen/Qwen3-14B-Base",
    32_762_123_264: "Qwen/Qwen3-32B",
    # GPT: those of transformers' GPT2LMHeadModel of the same sizes, which are the published totals.
    102_946_816: "gpt2-small-en",
    108_882_432: "gpt-cpm-small-cn-distill",
    124_439_808: "gpt2 openai-community/gpt2 gpt2-en",
    354_823_168: "gpt2-medium openai-community/gpt2-medium",
    354_871_296: "gpt2-medium-en",
    774_030_080: "gpt2-large openai-community/gpt2-large gpt2-large-en",
    1_313_722_368: "gpt3-1.3B-en",
    1_557_611_200: "gpt2-xl openai-community/gpt2-xl gpt2-xl-en",
    2_597_073_920: "gpt-cpm-large-cn",
    6_654_402_560: "gpt3-6.7B-en",
    12_848_384_000: "gpt3-13B-en gpt3-13B-en-128-heads",
    87_622_508_544: "gpt3-89B-en",
    174_603_264_000: "gpt3-175B-en",
    # Baichuan: of the first release from the models' own pages; those of Baichuan 2 have, in the
    # published config.json files, 125696 - 64000 more rows in the table and in the head.
    BAICHUAN_7B: "baichuan-inc/Baichuan-7B",
    BAICHUAN_13B: "baichuan-inc/Baichuan-13B-Base baichuan-inc/Baichuan-13B-Chat",
    BAICHUAN_7B + 2 * 61_696 * 4096: """
        baichuan-inc/Baichuan2-7B-Base baichuan-inc/Baichuan2-7B-Chat""",
    BAICHUAN_13B + 2 * 61_696 * 5120: """
        baichuan-inc/Baichuan2-13B-Base baichuan-inc/Baichuan2-13B-Chat""",
    # OPT: those of transformers' OPTForCausalLM of the same sizes, which are the published totals.
    125_239_296: "facebook/opt-125m",
    1_315_758_080: "facebook/opt-1.3b facebook/opt-iml-1.3b facebook/opt-iml-max-1.3b",
    2_651_596_800: "facebook/opt-2.7b",
    6_658_473_984: "facebook/opt-6.7b",
    12_853_473_280: "facebook/opt-13b",
    29_974_540_288: "facebook/opt-30b facebook/opt-iml-30b facebook/opt-iml-max-30b",
    65_719_701_504: "facebook/opt-66b",
    # BLOOM: from the models' own pages.
    559_214_592: "bigscience/bloom-560m bigscience/bloomz-560m bigscience/bloom-560m-bf16",
    1_065_314_304: "bigscience/bloom-1b1 bigscience/bloomz-1b1",
    1_722_408_960: """
        bigscience/bloom-1b7 bigscience/bloomz-1b7 bigscience/bloom-1b3 bigscience/bloomz-1b3""",
    3_002_557_440: "bigscience/bloom-3b bigscience/bloomz-3b",
    7_069_016_064: """
        bigscience/bloom-7b1 bigscience/bloomz-7b1 bigscience/bloomz-7b1-mt
        bigscience/bloomz-7b1-p3 bellegroup/belle-7b-2m""",
    176_247_271_424: "bigscience/bloom bigscience/bloomz bigscience/bloomz-mt",
    # GLM: see test_chatglm.py and test_chatglm2.py.
    6_173_286_400: "THUDM/chatglm-6b THUDM/chatglm-6b-v1.1",
    6_243_584_000: "THUDM/chatglm2-6b THUDM/chatglm3-6b THUDM/chatglm3-6b-base",
    128_697_794_560: "THUDM/glm-130b",
}
COUNTS = {name: count for count, names in PUBLISHED.items() for name in names.split()}


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_as_many_parameters_as_published(name: str, count: int) -> None:
    config = FAMILIES[SEEDS[name]["model_type"]].read_config(SEEDS[name], name)
    assert config.parameter_count() == count


def test_no_built_in_config_is_left_out() -> None:
    trials = {name for name in SEEDS if name.startswith(("tiny/", "__internal_testing__/"))}
    assert COUNTS.keys() == SEEDS.keys() - trials
