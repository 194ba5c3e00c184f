"""The chosen model as one ONNX graph: encoded rows in, the task's prediction array out.

    rows ─┬─ member 0 → head outputs → calibrated → the task's prediction ─× weight ─┐
          ├─ member 1 …                                                             ├─ sum → predictions
          └─ …                                                                      ┘

Everything but networks is computed in double precision, as the predictor itself does.
"""
