/** How a run stands, in words. */

export const STATES = {
  preparing: "Preparing",
  training: "Training",
  finished: "Finished",
  stopped: "Stopped and kept",
  failed: "Failed",
  unfinished: "Not finished",
};
