/** How a run stands, in words. */

export const STATES = {
  preparing: "Preparing",
  training: "Training",
  finished: "Finished",
  stopped: "Stopped and kept",
  failed: "Failed",
  written: "Written for a shell",
  unfinished: "Not finished",
};
