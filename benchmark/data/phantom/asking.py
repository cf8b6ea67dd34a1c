"""How the factors of the phantoms are asked about: what a question names, and what it says of low and high values.

``Asked.subject`` with ``verb`` and a state make a closed question (``Are the nuclei enlarged?``), ``aspect`` an open
one (``How would you describe the size of the nuclei?``). No two aspects of a generator are the same, so an open
question has one answer.
"""

from __future__ import annotations

from typing import NamedTuple


class Asked(NamedTuple):
    """The words of one factor."""

    subject: str
    verb: str
    low: str
    high: str
    aspect: str


ASKED: dict[str, dict[str, Asked]] = {
    "ct": {
        "lesion_size": Asked("the lesions", "are", "small", "large", "size of the lesions"),
        "lesion_density": Asked("the lesions", "are", "hypodense", "hyperdense", "density of the lesions"),
        "lesion_number": Asked("the lesions", "are", "solitary", "numerous", "number of lesions"),
        "body_fat": Asked("the fat ring", "is", "thin", "thick", "fat ring"),
        "liver_size": Asked("the liver", "is", "small", "enlarged", "size of the liver"),
        "noise": Asked("the image noise", "is", "low", "high", "image noise"),
    },
    "dermoscopy": {
        "asymmetry": Asked("the lesion", "is", "symmetric", "markedly asymmetric", "symmetry of the lesion"),
        "border_irregularity": Asked("the border", "is", "smooth", "ragged", "border of the lesion"),
        "colour_variety": Asked("the lesion", "is", "uniformly brown", "multicoloured", "colour of the lesion"),
        "lesion_size": Asked("the lesion", "is", "small", "large", "size of the lesion"),
        "hair": Asked("the overlying hair", "is", "absent", "heavy", "overlying hair"),
        "pigment_network": Asked("the pigment network", "is", "absent", "prominent", "pigment network"),
    },
    "fundus": {
        "exudates": Asked("the hard exudates", "are", "absent", "numerous", "hard exudates"),
        "haemorrhages": Asked("the haemorrhages", "are", "absent", "extensive", "extent of haemorrhages"),
        "vessel_tortuosity": Asked("the vessels", "are", "straight", "markedly tortuous", "course of the vessels"),
        "vessel_width": Asked("the vessels", "are", "narrow", "dilated", "width of the vessels"),
        "cup_size": Asked("the optic cup", "is", "small", "enlarged", "size of the optic cup"),
        "pigmentation": Asked("the fundus", "is", "pale", "darkly pigmented", "pigmentation of the fundus"),
    },
    "histopathology": {
        "nuclear_density": Asked("the nuclei", "are", "sparse", "crowded", "density of the nuclei"),
        "nuclear_size": Asked("the nuclei", "are", "small", "enlarged", "size of the nuclei"),
        "gland_size": Asked("the glands", "are", "small", "dilated", "size of the glands"),
        "pleomorphism": Asked("the nuclei", "are", "uniform", "markedly pleomorphic", "pleomorphism of the nuclei"),
        "stain": Asked("the nuclear staining", "is", "pale", "dark", "nuclear staining"),
        "fibrosis": Asked("the stroma", "is", "loose", "densely fibrotic", "stroma"),
    },
    "microscopy": {
        "cell_size": Asked("the red cells", "are", "small", "large", "size of the red cells"),
        "elongation": Asked("the red cells", "are", "round", "elongated", "shape of the red cells"),
        "central_pallor": Asked("the red cells", "are", "dense", "markedly pale inside", "pallor of the red cells"),
        "cell_number": Asked("the red cells", "are", "few", "crowded", "number of red cells"),
        "nuclear_lobes": Asked("the white-cell nucleus", "is", "round", "lobed", "white-cell nucleus"),
        "platelets": Asked("the platelets", "are", "scarce", "abundant", "number of platelets"),
    },
    "mri": {
        "lesion_size": Asked("the lesion", "is", "small", "large", "size of the lesion"),
        "lesion_intensity": Asked("the lesion", "is", "dark", "bright", "brightness of the lesion"),
        "ventricle_size": Asked("the ventricles", "are", "slit-like", "enlarged", "size of the ventricles"),
        "atrophy": Asked("the sulci", "are", "narrow", "widened", "width of the sulci"),
        "weighting": Asked("the weighting", "is", "T1", "T2", "weighting"),
        "midline_shift": Asked("the midline", "is", "central", "markedly shifted", "position of the midline"),
    },
    "oct": {
        "retinal_thickness": Asked("the retina", "is", "thin", "thickened", "thickness of the retina"),
        "fluid": Asked("the cysts", "are", "minimal", "abundant", "amount of cysts"),
        "drusen": Asked("the drusen", "are", "tiny", "large", "size of the drusen"),
        "foveal_pit": Asked("the foveal pit", "is", "flattened", "deep", "foveal pit"),
        "curvature": Asked("the contour", "is", "flat", "steeply curved", "contour"),
        "choroid_thickness": Asked("the choroid", "is", "thin", "thick", "thickness of the choroid"),
    },
    "ultrasound": {
        "mass_size": Asked("the mass", "is", "small", "large", "size of the mass"),
        "border_irregularity": Asked("the border", "is", "smooth", "spiculated", "border of the mass"),
        "echogenicity": Asked("the interior", "is", "anechoic", "isoechoic", "interior of the mass"),
        "posterior_effect": Asked("the posterior echo", "is", "enhanced", "shadowed", "posterior echo"),
        "orientation": Asked("the mass", "is", "wider than tall", "taller than wide", "shape of the mass"),
        "gland_density": Asked("the breast tissue", "is", "fatty", "dense", "breast tissue"),
    },
    "xray": {
        "opacity_extent": Asked("the opacity", "is", "limited", "extensive", "extent of the opacity"),
        "opacity_texture": Asked("the opacity", "is", "hazy", "nodular", "texture of the opacity"),
        "opacity_zone": Asked("the opacity", "is", "in the upper zone", "in the lower zone", "zone of the opacity"),
        "heart_size": Asked("the heart", "is", "small", "enlarged", "size of the heart"),
        "effusion": Asked("the pleural effusion", "is", "minimal", "large", "pleural effusion"),
        "lung_volume": Asked("the lung volume", "is", "low", "increased", "lung volume"),
    },
}

# Wordings of instructions, shared by all generators: a stream's own, and others that no shipped stream has.
Forms = dict[str, tuple[str, ...]]
CLOSED: Forms = {
    "usual": (
        "{Verb} {subject} {state}?",
        "Would you say that {subject} {verb} {state}?",
        "Is it true that {subject} {verb} {state}?",
        "Does the image show that {subject} {verb} {state}?",
    ),
    "other": ("Do you find that {subject} {verb} {state}?", "Can you confirm that {subject} {verb} {state}?"),
}
OPEN: Forms = {
    "usual": (
        "How would you describe the {aspect}?",
        "What can be said about the {aspect}?",
        "Describe the {aspect} in a few words.",
        "What is your impression of the {aspect}?",
    ),
    "other": ("What do you note about the {aspect}?", "Characterise the {aspect}."),
}
LIST: Forms = {
    "usual": (
        "List the marked findings.",
        "Which findings are marked?",
        "Name all marked findings.",
        "What stands out in this image?",
    ),
    "other": ("List what stands out.", "Which findings are prominent?"),
}
CLASSES: Forms = {
    "usual": (
        "Which of these is shown: {words}? Answer with one word.",
        "Which word fits the image: {words}? Answer with that word only.",
        "Choose one word for this image: {words}.",
    ),
    "other": ("Decide between {words}.", "Pick the right word: {words}."),
}
REPORT: Forms = {
    "usual": ("Describe the image.", "Write a short report.", "Report the findings.", "Describe what you see."),
    "other": ("Summarise the image.", "What would a report say?"),
}
