"use strict";
const COLOURS = ["#e69f00","#56b4e9","#009e73","#d8c800","#0072b2","#d55e00","#cc79a7","#785e3c","#a0a0dc","#aadc78","#fab4b4","#643c8c"];
const NOTHING = "#9a9a9a", byId = id => document.getElementById(id);

async function answered(request) {
  const answer = await request, found = await answer.json();
  byId("error").textContent = answer.ok ? "" : found.error;
  if (!answer.ok) throw new Error(found.error);
  return found;
}
const ask = (path, query) => answered(fetch(query ? path + "?" + new URLSearchParams(query) : path));
const tell = (path, told) => answered(fetch(path, {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(told)}));

// The map of codes: a square of 520 pixels, from -RANGE to RANGE in the plane that tells best where codes lead.
const RANGE = 3.5, toPixel = ([x, y]) => [260 + x / RANGE * 250, 260 - y / RANGE * 250];
const colour = outcome => outcome < 0 ? NOTHING : COLOURS[outcome % COLOURS.length];
const placeOf = (map, code) => map.axes.map(axis => axis.reduce((sum, a, i) => sum + a * code[i], 0));

function drawMap(canvas, map, rings) {
  const c = canvas.getContext("2d");
  c.clearRect(0, 0, 520, 520);
  c.strokeStyle = NOTHING; c.lineWidth = 1; c.beginPath(); c.moveTo(260, 0); c.lineTo(260, 520); c.moveTo(0, 260); c.lineTo(520, 260); c.stroke();
  map.place.forEach((place, i) => { const [a, b] = toPixel(place); c.fillStyle = colour(map.outcome[i]); c.beginPath(); c.arc(a, b, 7, 0, 7); c.fill() });
  for (const [place, style] of rings) { const [a, b] = toPixel(place); c.strokeStyle = style; c.lineWidth = 4; c.beginPath(); c.arc(a, b, 13, 0, 7); c.stroke() }
}

function drawLegend(box, map) {
  box.replaceChildren();
  [...new Set(map.outcome)].sort((a, b) => a - b).forEach(outcome => {
    const made = document.createElement("span"), count = map.outcome.filter(o => o === outcome).length;
    made.style.setProperty("--c", colour(outcome));
    made.textContent = (outcome < 0 ? "nothing" : map.targetName + (map.targets ? ` ${outcome}` : "")) + ` ${Math.round(100 * count / map.outcome.length)}%`;
    box.append(made);
  });
}
