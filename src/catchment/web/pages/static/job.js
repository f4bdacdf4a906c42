// A job that runs, live by server-sent events; when it ends, the page is loaded once more.
"use strict";
(() => {
  const live = document.getElementById("live");
  const by = (id) => document.getElementById(id);
  const number = (value) => value.toLocaleString("en").replaceAll(",", "\u202f");
  let last = 0;
  const source = new EventSource(live.dataset.url);
  source.addEventListener("job", (event) => {
    const job = JSON.parse(event.data);
    by("bar").max = job.members || 1;
    by("bar").value = job.done;
    by("done").textContent = number(job.done);
    by("members").textContent = number(job.members);
    by("failed").textContent = number(job.failed);
    by("files").textContent = number(job.outputs.length);
    by("lines").textContent = number(job.outputs.reduce((sum, one) => sum + one.count, 0));
    live.dataset.events = String(Number(live.dataset.events || 0) + 1);
    const tenth = Math.floor((10 * job.done) / (job.members || 1));
    if (tenth !== last) by("told-live").textContent = `${job.done} of ${job.members} members read`;
    last = tenth;
    if (job.state !== "running") { source.close(); location.reload(); }
  });
  source.addEventListener("end", () => { source.close(); location.reload(); });
  addEventListener("pagehide", () => source.close());
})();
