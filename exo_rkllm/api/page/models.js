/* What the models of the daemon can do. */
import { status } from "./daemon.js";

/* The one with that name, or else the one that answers soonest. */
export function modelNamed(name) {
  const models = status.value?.models || [];
  return models.find((model) => model.name === name) || models.find(({ state }) => state === "ready")
    || models.find((model) => !fit(model, status.value)) || models[0];
}

/* Whether it takes pictures; only a loaded model knows for certain. */
export const sees = (model) => Boolean(model) && model.images !== false;

/* Why it would not run on this board, or nothing. */
export const fit = (model) => model.unfit || "";
