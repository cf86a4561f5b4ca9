// Draws use against license with uPlot, from the figures that the page carries; a table beside
// each chart has the same. Drawn anew when the live part brings other figures.
(() => {
  "use strict";
  const drawn = new Map();
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const pad = (n) => String(n).padStart(2, "0");
  const utc = (at) => new Date(at * 1000);
  const axis = (_, splits) => splits.map((at) => {
    const t = utc(at);
    const clock = `${pad(t.getUTCHours())}:${pad(t.getUTCMinutes())}`;
    const day = `${pad(t.getUTCMonth() + 1)}-${pad(t.getUTCDate())}`;
    return clock === "00:00" ? day : clock;
  });
  const full = (at) => (at == null ? "" : utc(at).toISOString().replace("T", " ").slice(0, 16) + " UTC");

  const options = (element, source) => ({
    width: Math.max(260, element.clientWidth),
    height: 230,
    tzDate: (at) => new Date(utc(at).getTime() + utc(at).getTimezoneOffset() * 60000),
    cursor: { drag: { x: false, y: false } },
    scales: { x: { range: () => [Number(source.dataset.begin), Number(source.dataset.end)] }, y: { range: (_, low, high) => [0, Math.max(1, high * 1.08)] } },
    axes: [
      { stroke: colour("--soft"), grid: { stroke: colour("--line") }, values: axis },
      { stroke: colour("--soft"), grid: { stroke: colour("--line") }, size: 46 },
    ],
    series: [
      { label: "Time", value: (_, at) => full(at) },
      { label: "Peak", stroke: colour("--used"), width: 2, fill: colour("--held") + "55" },
      { label: "Mean", stroke: colour("--soft"), width: 1 },
      { label: "License", stroke: colour("--good"), width: 2, dash: [6, 4], paths: uPlot.paths.stepped({ align: 1 }) },
      { label: "True refusals", stroke: colour("--peak"), width: 1, fill: colour("--peak"), paths: uPlot.paths.bars({ size: [0.6, 24] }), points: { show: false } },
    ],
  });

  // A time that nothing was reported of is left empty, not drawn through.
  const gaps = (figures, step) => {
    const out = figures.map(() => []);
    figures[0].forEach((at, index) => {
      if (index && at - figures[0][index - 1] > 1.5 * step) {
        out.forEach((column, number) => column.push(number ? null : figures[0][index - 1] + step));
      }
      out.forEach((column, number) => column.push(figures[number][index]));
    });
    return out;
  };

  const fit = new ResizeObserver((changes) => {
    for (const { target } of changes) {
      drawn.get(target)?.plot.setSize({ width: Math.max(260, target.clientWidth), height: 230 });
    }
  });

  const draw = () => {
    for (const [element, chart] of drawn) {
      if (!element.isConnected) { chart.plot.destroy(); fit.unobserve(element); drawn.delete(element); }
    }
    for (const element of document.querySelectorAll(".chart[data-from]")) {
      const source = document.getElementById(element.dataset.from);
      const points = source?.dataset.points;
      if (!points) continue;
      const known = drawn.get(element);
      if (known?.points === points) continue;
      const figures = gaps(JSON.parse(points), Number(source.dataset.step));
      if (known) { known.plot.setData(figures); known.points = points; continue; }
      element.replaceChildren();
      fit.observe(element);
      drawn.set(element, { plot: new uPlot(options(element, source), figures, element), points });
    }
  };
  document.body.addEventListener("htmx:afterSettle", draw);
  draw();
})();
