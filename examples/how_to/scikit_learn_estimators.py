"""
Use a density in scikit-learn
=============================

Use a flow where a ``KernelDensity`` stands, and predict the whole distribution of a target.

``FlowDensity`` has the interface of ``sklearn.neighbors.KernelDensity``, so it works in pipelines,
``cross_val_score``, ``GridSearchCV`` and pickles. ``FlowRegressor`` models a target given features.
Both need scikit-learn, which the extra ``sklearn`` installs. The rows are hours of a power plant
(`UCI <https://archive.ics.uci.edu/dataset/294/combined+cycle+power+plant>`_, CC BY 4.0), which come
with the package.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from impflow_zoo.models.registry import zoo_folder
from impflow_zoo.sklearn import FlowDensity, FlowRegressor

table = pd.read_parquet(zoo_folder() / "impflow-power-plant" / "test.parquet")
train, test = train_test_split(table, test_size=0.25, random_state=0)

# %%
# With ``FlowDensity(minutes=5)`` a search chooses the model, as ``impflow-zoo fit`` does. Here the
# model is named, so that this page builds fast: there is no search, and ``minutes`` is the time of
# its training. Columns that are rounded, here to 0.01, get noise of one step in training; samples,
# means and quantiles are those of rounded values. If rows stand for different numbers of cases,
# ``fit(X, sample_weight=w)`` counts them so.

density = FlowDensity(0.2, model="implicit-sines", device="cpu").fit(train)
print(density.rounding_)
print(f"flow:           {density.score_samples(test).mean():.2f} nats per row")

# %%
# A kernel density needs columns of one scale, and a bandwidth. The log-density of scaled columns
# differs from that of the original ones by the logarithms of the scales.

kernel = GridSearchCV(
    make_pipeline(StandardScaler(), KernelDensity()),
    {"kerneldensity__bandwidth": np.geomspace(0.05, 1, 10)},
).fit(train)
scales = np.log(kernel.best_estimator_[0].scale_).sum()
print(f"kernel density: {kernel.score(test) / len(test) - scales:.2f} nats per row")

# %%
# The electrical output given the weather. Quantiles come from the density, so there is one model
# for all levels, and they do not cross. Both estimators take ``bounds`` and ``periodic``, what is
# known of columns, as ``fit`` does: an output is not negative, and an hour would be
# ``periodic={"hour": 24}``. The columns of an array are called x0, x1, ...; a target without a name
# is called y.

features = ["AT", "V", "AP", "RH"]
regressor = FlowRegressor(0.2, model="implicit-sines", bounds={"PE": (0, None)}, device="cpu")
regressor.fit(train[features], train["PE"])
low, high = regressor.predict_quantiles(test[features], [0.05, 0.95]).T
inside = ((low <= test["PE"]) & (test["PE"] <= high)).mean()
print(f"R2 {regressor.score(test[features], test['PE']):.3f}, {inside:.0%} in the 90 % interval")

# %%
# Samples of a density that was fitted to a DataFrame are a DataFrame.

drawn = density.sample(len(test), random_state=0)
figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
axes[0].plot(test["AT"], test["PE"], ".", markersize=3, label="held-out rows")
axes[0].plot(drawn["AT"], drawn["PE"], ".", markersize=3, label="samples")
axes[0].set(xlabel="AT, degrees Celsius", ylabel="PE, MW")
axes[0].legend()
order = np.argsort(regressor.predict(test[features]))
axes[1].fill_between(range(len(order)), low[order], high[order], alpha=0.3, label="90 %")
axes[1].plot(test["PE"].to_numpy()[order], ".", markersize=3, label="held-out rows")
axes[1].set(xlabel="rows by their prediction", ylabel="PE, MW")
axes[1].legend()
plt.show()

# %%
# Both pass ``check_estimator`` of scikit-learn, with these exceptions:
#
# - ``check_sample_weight_equivalence_on_dense_data``: which rows are held out for validation
#   depends on their number, not on their weights, so a row of weight 2 differs from two rows.
# - ``check_methods_sample_order_invariance`` and ``check_methods_subset_invariance``, of
#   ``FlowRegressor``: they call ``score_samples(X)``, but the density of a target needs the target,
#   ``score_samples(X, y)``.
