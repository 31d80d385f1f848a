"""Trains the iris model (softmax regression on standardised measurements); writes model.onnx, manifest.json, scores.json.

    python train.py

150 flowers are few: the score is that of ten-fold cross-validation, five times with other folds, in which every flower is
judged by models that did not see it. The model that is written learns from all of them.
"""

import os
import sys
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
os.environ["OPENBLAS_CORETYPE"] = "Haswell"  # else each type of processor rounds in its own way

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RepeatedStratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

sys.path.insert(0, str(Path(__file__).parent.parent))
import report

HERE = Path(__file__).parent
SEED = 20261121
LABELS = ["setosa", "versicolor", "virginica"]
FEATURES = ["sepal_length", "sepal_width", "petal_length", "petal_width"]


def learner() -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=10.0, max_iter=1000))


def cross_validate(x: np.ndarray, y: np.ndarray) -> dict:
    """Scores over all predictions on folds that were held out."""
    truth, answers = [], []
    for training, test in RepeatedStratifiedKFold(n_splits=10, n_repeats=5, random_state=SEED).split(x, y):
        answers.append(learner().fit(x[training], y[training]).predict(x[test]))
        truth.append(y[test])
    return report.scores(np.concatenate(truth), np.concatenate(answers), LABELS)


def make_graph(pipeline: Pipeline):
    """measurements (n, 4) float32 in cm → probabilities (n, 3) float32; the scaler is folded into the weights."""
    scaler, regression = pipeline.named_steps["standardscaler"], pipeline.named_steps["logisticregression"]
    weights = regression.coef_.T / scaler.scale_[:, None]
    bias = regression.intercept_ - scaler.mean_ @ weights
    return report.model(
        "iris",
        [
            helper.make_node("Gemm", ["measurements", "weights", "bias"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["probabilities"], axis=-1),
        ],
        [helper.make_tensor_value_info("measurements", TensorProto.FLOAT, ["n", len(FEATURES)])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", len(LABELS)])],
        [
            numpy_helper.from_array(weights.astype(np.float32), "weights"),
            numpy_helper.from_array(bias.astype(np.float32), "bias"),
        ],
    )


def main() -> None:
    x, y = load_iris(return_X_y=True)
    scores = {"cross_validation": cross_validate(x, y)}
    manifest = {
        "version": "1.0.0",
        "task": "tabular",
        "input": "measurements",
        "output": "probabilities",
        "labels": LABELS,
        "features": FEATURES,
    }
    report.write(HERE, make_graph(learner().fit(x, y)), manifest, scores)


if __name__ == "__main__":
    main()
