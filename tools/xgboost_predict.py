"""Fits xgboost to a table and prints what it says of another; `crates/tune/tests/xgboost.rs` runs it.

    python tools/xgboost_predict.py TRAIN.csv TEST.csv PARAMS.json

Tables have no header, and the target in their last column. PARAMS has `trees` and what
`xgboost.train` takes. One prediction a line.
"""

import json
import sys

import numpy
import xgboost


def main(train_path: str, test_path: str, params_path: str) -> None:
    train = numpy.loadtxt(train_path, delimiter=",", ndmin=2)
    test = numpy.loadtxt(test_path, delimiter=",", ndmin=2)
    with open(params_path, encoding="utf-8") as file:
        params = json.load(file)
    trees = params.pop("trees")
    rows = xgboost.DMatrix(train[:, :-1], label=train[:, -1])
    model = xgboost.train(params, rows, num_boost_round=trees)
    for value in model.predict(xgboost.DMatrix(test[:, :-1])):
        print(repr(float(value)))


if __name__ == "__main__":
    main(*sys.argv[1:])
