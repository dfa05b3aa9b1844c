"""Which languages a translation model knows, in its own codes.

Knows how each architecture writes them into its files. Must not know tensors or tokenizers at work.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from catalog.files import ModelFiles

#: Languages of the tokenizers of M2M100, mBART and NLLB, which some checkpoints leave to the code that reads them.
_M2M100 = """
af am ar ast az ba be bg bn br bs ca ceb cs cy da de el en es et fa ff fi fr fy ga gd gl gu ha he hi hr ht hu hy id ig
ilo is it ja jv ka kk km kn ko lb lg ln lo lt lv mg mk ml mn mr ms my ne nl no ns oc or pa pl ps pt ro ru sd si sk sl so
sq sr ss su sv sw ta th tl tn tr uk ur uz vi wo xh yi yo zh zu
"""
_MBART = """
ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV my_MM ne_NP nl_XX ro_RO
ru_RU si_LK tr_TR vi_VN zh_CN
"""
_MBART50 = """
af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE km_KH mk_MK ml_IN mn_MN mr_IN pl_PL ps_AF pt_XX sv_SE sw_KE ta_IN te_IN
th_TH tl_XX uk_UA ur_PK xh_ZA gl_ES sl_SI
"""
_NLLB = """
ace_Arab ace_Latn acm_Arab acq_Arab aeb_Arab afr_Latn ajp_Arab aka_Latn amh_Ethi apc_Arab arb_Arab ars_Arab ary_Arab
arz_Arab asm_Beng ast_Latn awa_Deva ayr_Latn azb_Arab azj_Latn bak_Cyrl bam_Latn ban_Latn bel_Cyrl bem_Latn ben_Beng
bho_Deva bjn_Arab bjn_Latn bod_Tibt bos_Latn bug_Latn bul_Cyrl cat_Latn ceb_Latn ces_Latn cjk_Latn ckb_Arab crh_Latn
cym_Latn dan_Latn deu_Latn dik_Latn dyu_Latn dzo_Tibt ell_Grek eng_Latn epo_Latn est_Latn eus_Latn ewe_Latn fao_Latn
pes_Arab fij_Latn fin_Latn fon_Latn fra_Latn fur_Latn fuv_Latn gla_Latn gle_Latn glg_Latn grn_Latn guj_Gujr hat_Latn
hau_Latn heb_Hebr hin_Deva hne_Deva hrv_Latn hun_Latn hye_Armn ibo_Latn ilo_Latn ind_Latn isl_Latn ita_Latn jav_Latn
jpn_Jpan kab_Latn kac_Latn kam_Latn kan_Knda kas_Arab kas_Deva kat_Geor knc_Arab knc_Latn kaz_Cyrl kbp_Latn kea_Latn
khm_Khmr kik_Latn kin_Latn kir_Cyrl kmb_Latn kon_Latn kor_Hang kmr_Latn lao_Laoo lvs_Latn lij_Latn lim_Latn lin_Latn
lit_Latn lmo_Latn ltg_Latn ltz_Latn lua_Latn lug_Latn luo_Latn lus_Latn mag_Deva mai_Deva mal_Mlym mar_Deva min_Latn
mkd_Cyrl plt_Latn mlt_Latn mni_Beng khk_Cyrl mos_Latn mri_Latn zsm_Latn mya_Mymr nld_Latn nno_Latn nob_Latn npi_Deva
nso_Latn nus_Latn nya_Latn oci_Latn gaz_Latn ory_Orya pag_Latn pan_Guru pap_Latn pol_Latn por_Latn prs_Arab pbt_Arab
quy_Latn ron_Latn run_Latn rus_Cyrl sag_Latn san_Deva sat_Beng scn_Latn shn_Mymr sin_Sinh slk_Latn slv_Latn smo_Latn
sna_Latn snd_Arab som_Latn sot_Latn spa_Latn als_Latn srd_Latn srp_Cyrl ssw_Latn sun_Latn swe_Latn swh_Latn szl_Latn
tam_Taml tat_Cyrl tel_Telu tgk_Cyrl tgl_Latn tha_Thai tir_Ethi taq_Latn taq_Tfng tpi_Latn tsn_Latn tso_Latn tuk_Latn
tum_Latn tur_Latn twi_Latn tzm_Tfng uig_Arab ukr_Cyrl umb_Latn urd_Arab uzn_Latn vec_Latn vie_Latn war_Latn wol_Latn
xho_Latn ydd_Hebr yor_Latn yue_Hant zho_Hans zho_Hant zul_Latn
"""
_BUILT_IN = {
    "M2M100Tokenizer": _M2M100,
    "MBartTokenizer": _MBART,
    "MBart50Tokenizer": _MBART + _MBART50,
    "NllbTokenizer": _NLLB,
}
#: Special tokens that name a language: M2M100 `__de__`, mBART `de_DE`, NLLB `deu_Latn`.
_TOKENS = {
    "m2m_100": re.compile(r"__([a-z]{2,3})__|([a-z]{3}_[A-Z][a-z]{3})"),
    "nllb-moe": re.compile(r"([a-z]{3}_[A-Z][a-z]{3})"),
    "mbart": re.compile(r"([a-z]{2}_[A-Z]{2})"),
}
_MARIAN_TARGET = re.compile(r">>([^<>]+)<<")
_T5_PAIR = re.compile(r"translation_(\w+?)_to_(\w+)")

Languages = tuple[tuple[str, ...], tuple[str, ...]]


def languages_of(model_type: str, config: dict[str, Any], files: ModelFiles) -> Languages:
    """Source and target languages; both empty where the files do not say.

    Marian names one of each in its tokenizer's configuration, or several targets as tokens of its vocabulary
    (`>>fra<<`). M2M100, NLLB and mBART know every pair of the languages among their special tokens. T5 names pairs
    among its task-specific parameters.
    """
    tokenizer = files.json("tokenizer_config.json")
    if model_type == "marian":
        return _marian(tokenizer, files)
    if model_type in _TOKENS:
        special = _special_tokens(tokenizer) + _special_tokens(files.json("special_tokens_map.json"))
        found = _distinct(
            next(group for group in match.groups() if group)
            for match in map(_TOKENS[model_type].fullmatch, special)
            if match
        )
        known = found or tuple(_BUILT_IN.get(_tokenizer_class(tokenizer), "").split())
        return known, known
    pairs = [match.groups() for match in map(_T5_PAIR.fullmatch, prefixes_of(config)) if match]
    return _distinct(source for source, _ in pairs), _distinct(target for _, target in pairs)


def _marian(tokenizer: dict[str, Any], files: ModelFiles) -> Languages:
    source, target = tokenizer.get("source_lang"), tokenizer.get("target_lang")
    several = _distinct(match[1] for match in map(_MARIAN_TARGET.fullmatch, files.json("vocab.json")) if match)
    sources = (source,) if isinstance(source, str) and source else ()
    targets = (target,) if isinstance(target, str) and target else ()
    return sources, several or targets


def prefixes_of(config: dict[str, Any]) -> dict[str, str]:
    """What a text of each kind begins with (`summarization`, `translation_en_to_de`), where T5's configuration says."""
    specific = config.get("task_specific_params")
    if not isinstance(specific, dict):
        return {}
    return {
        str(name): values["prefix"]
        for name, values in specific.items()
        if isinstance(values, dict) and isinstance(values.get("prefix"), str)
    }


def _tokenizer_class(tokenizer: dict[str, Any]) -> str:
    return str(tokenizer.get("tokenizer_class", "")).removesuffix("Fast")


def _special_tokens(settings: dict[str, Any]) -> list[str]:
    """The special tokens in any of the ways that versions of transformers have written them."""
    listed: list[Any] = []
    for name in ("extra_special_tokens", "additional_special_tokens"):
        value = settings.get(name)
        listed += value if isinstance(value, list) else value.values() if isinstance(value, dict) else []
    added = settings.get("added_tokens_decoder")
    listed += added.values() if isinstance(added, dict) else []
    return [str(token.get("content", "")) if isinstance(token, dict) else str(token) for token in listed]


def _distinct(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))
